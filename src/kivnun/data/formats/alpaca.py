"""Alpaca: an instruction with an input and an output, and what was said before."""

from collections.abc import Sequence

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    read_list,
    read_optional_text,
    read_text,
    refuse,
    refuse_losses,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import TOOL_KEYS, read_tools
from kivnun.data.rows import Row

PROMPT_KEYS = frozenset({"instruction", "input", "system", "history"})
ROW_KEYS = PROMPT_KEYS | TOOL_KEYS | {"output"}
ROOM = Room(own_keys=ROW_KEYS)


def read_instruction(fields: Fields, problems: Problems) -> tuple[Message, ...]:
    """The turns before the answer: system, history, then instruction and input on lines of their own."""
    system = read_optional_text(fields, "system", problems)
    turns = [Message("system", system, trained=False)] if system else []
    for number, pair in enumerate(read_list(fields, "history", problems), start=1):
        texts = parse_cell(pair)
        if not isinstance(texts, list) or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            problems.append(("field-type", f"history, pair {number} should be two texts, got {show(texts)}"))
            continue
        turns += [Message("user", texts[0], trained=False), Message("assistant", texts[1], trained=True)]
    asked = [read_text(fields, "instruction", problems), read_optional_text(fields, "input", problems)]
    return (*turns, Message("user", "\n".join(filter(None, asked)), trained=False))


def _recognise(fields: Fields) -> str | None:
    if "instruction" not in fields or "output" not in fields:
        return None
    return "has `instruction`, `input` and `output`" if "input" in fields else "has `instruction` and `output`"


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    asked = read_instruction(fields, problems)
    answer = Message("assistant", read_text(fields, "output", problems), trained=True)
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    extra = further_fields(fields, ROW_KEYS)
    return Conversation((*asked, answer), text_fields(fields), row.where, tools, parallel, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, ROOM)
    system, turns = _split_system(conversation.messages)
    if system is not None and not system.content:
        losses.append("its system turn is empty, which the format cannot tell from none")
    pairs = [(turns[index].content, turns[index + 1].content) for index in range(0, len(turns) - 1, 2)]
    roles = [message.role for message in turns]
    if not losses and roles != ["user", "assistant"] * max(1, len(pairs)):
        losses.append(f"its turns are {', '.join(roles)}; the format holds questions and answers by turns")
    refuse_losses(conversation, losses)
    asked, answer = pairs[-1]
    row: dict[str, object] = {"instruction": asked, "input": "", "output": answer}
    if system is not None:
        row["system"] = system.content
    if len(pairs) > 1:
        row["history"] = [list(pair) for pair in pairs[:-1]]
    return row | dict(conversation.extra)


def _split_system(messages: Sequence[Message]) -> tuple[Message | None, Sequence[Message]]:
    has_system = bool(messages) and messages[0].role == "system"
    return (messages[0], messages[1:]) if has_system else (None, messages)


ALPACA = Format(
    "alpaca",
    'Alpaca: {"instruction": "...", "input": "...", "output": "..."}, with `system` and `history` where there are',
    _recognise,
    _read,
    _write,
)
