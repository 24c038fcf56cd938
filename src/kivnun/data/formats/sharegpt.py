"""ShareGPT: `conversations` with `from` and `value`; calls are turns of their own, tools are JSON text."""

import json
from collections.abc import Sequence

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls, parse_arguments
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    did_you_mean,
    further_fields,
    parse_cell,
    read_bool,
    read_optional_text,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import TOOL_KEYS, read_function, read_message, read_tools, read_weight
from kivnun.data.rows import Row

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
WRITTEN_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
COLUMNS = ("conversations", "messages")
ROW_KEYS = TOOL_KEYS | {"conversations", "system"}
ROOM = Room(tools=True, call_ids=False, own_keys=ROW_KEYS)


def read_turns(value: object, problems: Problems, *, name: str) -> tuple[Message, ...]:
    """Turns with `from` and `value`, or with `role` and `content`; calls without an id stay without."""
    turns = parse_cell(value)
    if not isinstance(turns, list):
        problems.append(("field-type", f"field `{name}` should be a list of turns, got {show(value)}"))
        return ()
    if not turns:
        problems.append(("messages-empty", f"field `{name}` has no turns"))
    return tuple(read_turn(turn, f"turn {number}", problems) for number, turn in enumerate(turns, start=1))


def read_turn(turn: object, place: str, problems: Problems) -> Message:
    """One turn with `from` and `value`, or with `role` and `content`."""
    if not isinstance(turn, dict) or ("role" in turn and "from" not in turn):
        return read_message(turn, place, problems)
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker not in ROLES:
        known = ", ".join(ROLES)
        meant = did_you_mean(speaker, ROLES)
        problems.append(("role-unknown", f"{place} is from {show(speaker)}{meant} (known: {known})"))
        speaker = ""
    place = f"{place} ({speaker})" if speaker else place
    refuse_unknown(turn, ("from", "value", "weight"), place, problems)
    role = ROLES.get(speaker, "")
    weight = read_weight(turn.get("weight"), role, place, problems)
    if speaker == "function_call":
        calls = _read_calls(value, place, problems)
        return Message(role, "", weight > 0, tool_calls=calls, weight=weight or 1.0)
    if not isinstance(value, str):
        problem = ("content-missing", "has no value") if value is None else ("content-type", f"has {show(value)}")
        problems.append((problem[0], f"{place} {problem[1]}; its value should be text"))
        value = ""
    return Message(role, value, weight > 0, weight=weight or 1.0)


def _read_calls(value: object, place: str, problems: Problems) -> tuple[ToolCall, ...]:
    """Calls from JSON text of an object with `name` and `arguments`, or of a list of them."""
    calls = parse_cell(value)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        problems.append(("content-type", f'{place} should be {{"name": ..., "arguments": ...}}, got {show(value)}'))
        return ()
    return tuple(read_function(call, "", f"{place}, call {number}", problems) for number, call in enumerate(calls, 1))


def _recognise(fields: Fields) -> str | None:
    for column in COLUMNS:
        turns = parse_cell(fields.get(column))
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, dict) and "from" in first:
            return f"has `{column}` with `from` and `value`"
    return "has `conversations`" if "conversations" in fields else None


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    column = "conversations" if "conversations" in fields or "messages" not in fields else "messages"
    messages = read_turns(fields[column], problems, name=column) if require(fields, column, problems) else ()
    system = read_optional_text(fields, "system", problems)
    if system:
        messages = (Message("system", system, trained=False), *messages)
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    extra = further_fields(fields, ROW_KEYS | {column})
    return Conversation(number_calls(messages), text_fields(fields), row.where, tools, parallel, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = [*find_losses(conversation, ROOM), *_lost_calls(conversation.messages), *_lost_tools(conversation)]
    refuse_losses(conversation, losses)
    row: dict[str, object] = {"conversations": [_write_turn(message) for message in conversation.messages]}
    if conversation.tools:
        row["tools"] = json.dumps([tool["function"] for tool in conversation.tools], ensure_ascii=False)
    return row | dict(conversation.extra)


def _write_turn(message: Message) -> dict[str, object]:
    if not message.tool_calls:
        return {"from": WRITTEN_ROLES[message.role], "value": message.content}
    calls = [{"name": call.name, "arguments": parse_arguments(call.arguments)} for call in message.tool_calls]
    value = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
    return {"from": "function_call", "value": value}


def _lost_calls(messages: Sequence[Message]) -> list[str]:
    losses: list[str] = []
    for number, message in enumerate(messages, start=1):
        if message.tool_calls and message.content:
            losses.append(f"turn {number} (assistant) has text beside its calls; the format has one or the other")
        losses += [
            f"turn {number} (assistant) calls {call.name} with arguments that are no JSON object"
            for call in message.tool_calls
            if parse_arguments(call.arguments) is None
        ]
    return losses


def _lost_tools(conversation: Conversation) -> list[str]:
    return [
        f"tool {number} has keys beside its function: {', '.join(map(str, tool))}"
        for number, tool in enumerate(conversation.tools, start=1)
        if set(tool) != {"type", "function"}
    ]


SHAREGPT = Format(
    "sharegpt",
    'ShareGPT: {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}',
    _recognise,
    _read,
    _write,
)
