"""OpenAI's chat format: `messages` with roles, calls, weights and pictures; other formats read their turns with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls, write_arguments
from kivnun.data.formats.fields import (
    SAYS_NOTHING,
    Fields,
    Problems,
    data_url_type,
    did_you_mean,
    further_fields,
    is_deep,
    parse_cell,
    read_bool,
    read_list,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.rows import Row

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
PLAIN_ROLES = ("user", "assistant", "system")
TURN_KEYS = frozenset({"role", "content", "weight", "name", "tool_calls", "tool_call_id", "function_call"})
TOOL_KEYS = frozenset({"tools", "functions", "parallel_tool_calls"})
CHAT_KEYS = TOOL_KEYS | {"messages"}
DETAILS = ("", "auto", "low", "high")
CHAT_ROOM = Room(
    trained="any",
    system="anywhere",
    developer=True,
    names=True,
    tools=True,
    parallel_tool_calls=True,
    images=True,
    weights=True,
)


def read_messages(value: object, problems: Problems, *, name: str = "messages") -> tuple[Message, ...]:
    """All turns of a row as OpenAI writes them, or JSON text of them in a table's cell; calls get ids that lack one.

    Args:
        value: The list of turns.
        problems: Takes what is wrong; the turns that are returned count only where nothing is added.
        name: The field that they stand in.
    """
    messages = read_some_messages(value, problems, name=name)
    for message in messages:
        if message.tool_calls:
            return number_calls(messages)
    return messages


def read_some_messages(value: object, problems: Problems, *, name: str) -> tuple[Message, ...]:
    """As `read_messages`, for a field that holds a part of a row's turns: calls without an id stay without."""
    turns = parse_cell(value)
    if not isinstance(turns, list):
        problems.append(("field-type", f"field `{name}` should be a list of turns, got {show(value)}"))
        return ()
    if not turns:
        problems.append(("messages-empty", f"field `{name}` has no turns"))
    prefix = "" if name == "messages" else f"{name}, "
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        # Nearly every turn of nearly every file is of this kind.
        if type(turn) is dict and len(turn) == 2:
            role, content = turn.get("role"), turn.get("content")
            if type(content) is str and role in PLAIN_ROLES:
                messages.append(Message(role, content, role == "assistant"))
                continue
        messages.append(read_message(turn, f"{prefix}turn {number}", problems))
    return tuple(messages)


def untrain(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns, none of them learnt."""
    return tuple(replace(message, trained=False, weight=1.0) if message.trained else message for message in messages)


def read_message(turn: object, place: str, problems: Problems) -> Message:
    """One turn; `place` is what messages call it. It counts only where no problem is added."""
    if not isinstance(turn, dict):
        problems.append(("message-type", f"{place} should be an object, got {show(turn)}"))
        return Message("", "", trained=False)
    role = turn.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        problems.append(("role-unknown", f"{place} has role {show(role)}{did_you_mean(role, ROLES)} (known: {known})"))
        role = ""
    place = f"{place} ({role})" if role else place
    refuse_unknown(turn, TURN_KEYS, place, problems)
    calls = _read_calls(turn, role, place, problems)
    content, images = _read_content(turn.get("content"), role, place, problems, optional=bool(calls))
    name = _read_word(turn, "name", place, problems)
    if role == "function" and not name:
        problems.append(("field-missing", f"{place} does not name its function"))
    answers = _read_word(turn, "tool_call_id", place, problems)
    if answers and role != "tool":
        problems.append(("field-unknown", f"{place} has `tool_call_id`, which belongs to tool turns"))
    weight = read_weight(turn.get("weight"), role, place, problems)
    role = "tool" if role == "function" else role
    return Message(role, content, weight > 0, name, calls, answers, images, weight or 1.0)


def _read_word(turn: Fields, key: str, place: str, problems: Problems) -> str:
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value or ""
    problems.append(("field-type", f"{place}: `{key}` should be text, got {show(value)}"))
    return ""


def read_weight(weight: object, role: str, place: str, problems: Problems) -> float:
    """How much a turn with this `weight` is learnt, from 0 to 1; without one, the assistant's are learnt wholly.

    OpenAI knows 0 and 1 alone, which `kivnun check --for openai` tells.
    """
    if weight is None:
        return float(role == "assistant")
    if role != "assistant" and role:
        problems.append(("weight-invalid", f"{place} has weight {show(weight)}; only assistant turns have one"))
        return 0.0
    # Not a number is in no range.
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        problems.append(("weight-invalid", f"{place} has weight {show(weight)}; an assistant turn may have 0 to 1"))
        return 0.0
    return float(weight)


def _read_content(
    content: object, role: str, place: str, problems: Problems, *, optional: bool
) -> tuple[str, tuple[Image, ...]]:
    if isinstance(content, str):
        return content, ()
    if content is None or content == []:
        if not optional:
            problems.append(("content-missing", f"{place} has no content"))
        return "", ()
    if not isinstance(content, list):
        problems.append(("content-type", f"{place}: content should be text or a list of parts, got {show(content)}"))
        return "", ()
    text = ""
    images: list[Image] = []
    for number, part in enumerate(content, start=1):
        where = f"{place}, part {number}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            refuse_unknown(part, ("type", "text"), where, problems)
            text += part["text"]
        elif kind == "image_url":
            image = _read_image(part, len(text), where, problems)
            images += [image] if image else []
        else:
            what = f"type {show(kind)}" if kind and kind != "text" else show(part)
            problems.append(("content-type", f"{where} should be a text or an image_url, got {what}"))
    if images and role == "assistant":
        problems.append(("image-on-answer", f"{place} holds {len(images)} picture(s); only user turns can"))
    elif images and role and role != "user":
        problems.append(("content-type", f"{place} holds {len(images)} picture(s); only user turns can"))
    return text, tuple(images)


def _read_image(part: Fields, position: int, place: str, problems: Problems) -> Image | None:
    refuse_unknown(part, ("type", "image_url"), place, problems)
    link = part.get("image_url")
    if not isinstance(link, dict) or not isinstance(link.get("url"), str):
        problems.append(("content-type", f'{place}: image_url should be {{"url": "..."}}, got {show(link)}'))
        return None
    refuse_unknown(link, ("url", "detail"), f"{place}, image_url", problems)
    detail = link.get("detail") or ""
    if detail not in DETAILS:
        problems.append(("content-type", f"{place}: detail should be auto, low or high, got {show(detail)}"))
    return Image(position, link["url"], str(detail), data_url_type(link["url"]))


def _read_calls(turn: Fields, role: str, place: str, problems: Problems) -> tuple[ToolCall, ...]:
    listed, legacy = turn.get("tool_calls"), turn.get("function_call")
    if listed in SAYS_NOTHING and legacy in SAYS_NOTHING:
        return ()
    if role and role != "assistant":
        problems.append(("field-unknown", f"{place} has calls, which belong to assistant turns"))
    calls: list[ToolCall] = []
    if listed not in SAYS_NOTHING:
        if not isinstance(listed, list):
            problems.append(("field-type", f"{place}: tool_calls should be a list, got {show(listed)}"))
            listed = []
        calls += [_read_call(call, f"{place}, call {number}", problems) for number, call in enumerate(listed, 1)]
    if legacy not in SAYS_NOTHING:
        calls.append(read_function(legacy, "", f"{place}, function_call", problems))
    return tuple(calls)


def _read_call(call: object, place: str, problems: Problems) -> ToolCall:
    if not isinstance(call, dict):
        problems.append(("field-type", f"{place} should be an object, got {show(call)}"))
        return ToolCall("", "", "")
    refuse_unknown(call, ("id", "type", "function", "index"), place, problems)
    if call.get("type") not in (None, "function"):
        problems.append(("field-type", f"{place} should be of type function, got {show(call['type'])}"))
    return read_function(call.get("function"), _read_word(call, "id", place, problems), place, problems)


def read_function(function: object, call_id: str, place: str, problems: Problems) -> ToolCall:
    """A function's name and arguments as a call; arguments that are an object become JSON text."""
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        problems.append(("field-missing", f"{place} does not name its function: {show(function)}"))
        return ToolCall(call_id, "", "")
    refuse_unknown(function, ("name", "arguments"), place, problems)
    arguments = function.get("arguments")
    if isinstance(arguments, dict) and not is_deep(arguments):
        arguments = write_arguments(arguments)
    elif not isinstance(arguments, str):
        code = "field-missing" if arguments is None else "field-type"
        problems.append((code, f"{place}: arguments should be JSON text, got {show(arguments)}"))
        arguments = ""
    return ToolCall(call_id, function["name"], arguments)


def read_tools(fields: Fields, problems: Problems) -> tuple[Mapping[str, object], ...]:
    """The declared tools, from `tools` or the older `functions`, each as {"type": "function", "function": {...}}."""
    tools: list[Mapping[str, object]] = []
    for key in ("tools", "functions"):
        wrong: Problems = []
        declared = read_list(fields, key, wrong)
        problems += [("tools-invalid", message) for _, message in wrong]
        for number, item in enumerate(declared, start=1):
            tool = wrap_tool(parse_cell(item))
            if tool is None:
                problems.append(("tools-invalid", f"{key}, tool {number} does not name a function: {show(item)}"))
            else:
                tools.append(tool)
    return tuple(tools)


def wrap_tool(item: object) -> Mapping[str, object] | None:
    """A declared tool as OpenAI writes it, also where its function stands alone; None where it names none."""
    if not isinstance(item, dict):
        return None
    tool = cast("Mapping[str, object]", item)
    if "function" not in tool:
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    function = tool["function"]
    is_named = isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
    return tool if is_named and item.get("type", "function") == "function" else None


def write_messages(messages: Sequence[Message], *, weights: bool = True) -> list[dict[str, object]]:
    """Turns as OpenAI writes them.

    Args:
        messages: The turns.
        weights: Whether an assistant's turn that is not trained, or not wholly, says so.
    """
    return [write_message(message, weights=weights) for message in messages]


def write_message(message: Message, *, weights: bool = True) -> dict[str, object]:
    """One turn as OpenAI writes it."""
    turn: dict[str, object] = {"role": message.role, "content": _write_content(message)}
    if message.name:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if weights and message.role == "assistant" and not message.trained:
        turn["weight"] = 0
    elif weights and message.trained and message.weight != 1:
        turn["weight"] = message.weight
    return turn


def _write_content(message: Message) -> object:
    if not message.images:
        return None if message.tool_calls and not message.content else message.content
    parts: list[dict[str, object]] = []
    start = 0
    for image in message.images:
        text = message.content[start : image.position]
        link = {"url": image.url, "detail": image.detail} if image.detail else {"url": image.url}
        if text:
            parts.append({"type": "text", "text": text})
        parts.append({"type": "image_url", "image_url": link})
        start = image.position
    rest = message.content[start:]
    return [*parts, {"type": "text", "text": rest}] if rest else parts


def write_tools(conversation: Conversation) -> dict[str, object]:
    """The keys that declare tools, where a row has them."""
    written: dict[str, object] = {}
    if conversation.tools:
        written["tools"] = [dict(tool) for tool in conversation.tools]
    if conversation.parallel_tool_calls is not None:
        written["parallel_tool_calls"] = conversation.parallel_tool_calls
    return written


def _recognise(fields: Fields) -> str | None:
    if "messages" not in fields:
        return None
    turns = parse_cell(fields["messages"])
    first = turns[0] if isinstance(turns, list) and turns else None
    is_turn = isinstance(first, dict) and "role" in first and ("content" in first or "tool_calls" in first)
    return "has `messages` with `role` and `content`" if is_turn else "has `messages`"


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    messages = read_messages(fields["messages"], problems) if require(fields, "messages", problems) else ()
    if len(fields) == 1:
        refuse(row, problems)
        return Conversation(messages, text_fields(fields), row.where)
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    extra = further_fields(fields, CHAT_KEYS)
    return Conversation(messages, text_fields(fields), row.where, tools, parallel, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    refuse_losses(conversation, find_losses(conversation, CHAT_ROOM))
    return {"messages": write_messages(conversation.messages), **write_tools(conversation)}


OPENAI_CHAT = Format(
    "openai-chat",
    'OpenAI chat: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    _recognise,
    _read,
    _write,
)
