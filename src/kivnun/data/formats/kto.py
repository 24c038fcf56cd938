"""KTO: an answer and whether it is good, as LLaMA-Factory (`messages`) and TRL (`prompt`, `completion`) write it."""

from collections.abc import Collection

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.completion import SIDES, read_side
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    read_optional_text,
    refuse,
    refuse_losses,
    require,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import TOOL_KEYS, read_tools, untrain, write_messages, write_tools
from kivnun.data.formats.sharegpt import read_turns
from kivnun.data.rows import Row

COLUMNS = ("messages", "conversations")
ANSWERERS = ("assistant", "gpt")
LABEL_KEYS = TOOL_KEYS | {"label", "system"}
ROOM = Room(
    trained="last",
    system="anywhere",
    developer=True,
    names=True,
    tools=True,
    parallel_tool_calls=True,
    desirable=True,
    own_keys=LABEL_KEYS | {"messages"},
)


def _recognise(fields: Fields) -> str | None:
    # A label of another kind is a class, and the row is no KTO row.
    if read_bool(fields, "label", []) is None:
        return None
    for column in COLUMNS:
        turns = parse_cell(fields.get(column))
        last = turns[-1] if isinstance(turns, list) and turns else None
        if isinstance(last, dict) and last.get("role", last.get("from")) in ANSWERERS:
            return f"has `{column}` and a true or false `label`"
    return "has `prompt`, `completion` and a true or false `label`" if fields.keys() >= SIDES else None


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    messages, columns = _read_messages(fields, problems)
    system = read_optional_text(fields, "system", problems)
    if system:
        messages = (Message("system", system, trained=False), *messages)
    label = read_bool(fields, "label", problems, code="label-invalid") if require(fields, "label", problems) else None
    if label is None and not problems:
        problems.append(("label-invalid", "field `label` is empty"))
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    # The label is about the last answer; the turns before it are what was asked.
    turns = number_calls((*untrain(messages[:-1]), messages[-1]))
    extra = further_fields(fields, {*LABEL_KEYS, *columns})
    return Conversation(turns, text_fields(fields), row.where, tools, parallel, desirable=label, extra=extra)


def _read_messages(fields: Fields, problems: Problems) -> tuple[tuple[Message, ...], Collection[str]]:
    """The turns, and the fields that they stand in."""
    for column in COLUMNS:
        if fields.get(column) is not None:
            return read_turns(fields[column], problems, name=column), {column}
    if fields.keys() & SIDES:
        prompt = read_side(fields, "prompt", "user", problems)
        return (*prompt, *read_side(fields, "completion", "assistant", problems)), SIDES
    require(fields, "messages", problems)
    return (), ()


def _write(conversation: Conversation) -> dict[str, object]:
    refuse_losses(conversation, find_losses(conversation, ROOM))
    messages = write_messages(conversation.messages, weights=False)
    row = {"messages": messages, "label": conversation.desirable, **write_tools(conversation)}
    return row | dict(conversation.extra)


KTO = Format(
    "kto",
    'KTO: {"messages": [...], "label": true}, or {"prompt": "...", "completion": "...", "label": true}',
    _recognise,
    _read,
    _write,
)
