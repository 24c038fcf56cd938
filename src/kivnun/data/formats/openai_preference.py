"""OpenAI's preference rows: an input, the preferred answer and the one that is not."""

from dataclasses import replace

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    read_object,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import (
    TOOL_KEYS,
    read_some_messages,
    read_tools,
    untrain,
    write_message,
    write_messages,
    write_tools,
)
from kivnun.data.rows import Row

INPUT_KEYS = TOOL_KEYS | {"messages"}
# The guides write *_output, the published schema *_completion.
PREFERRED = ("preferred_output", "preferred_completion")
NOT_PREFERRED = ("non_preferred_output", "non_preferred_completion")
ROOM = Room(
    trained="last",
    system="anywhere",
    developer=True,
    names=True,
    tools=True,
    parallel_tool_calls=True,
    rejected=True,
)


def _recognise(fields: Fields) -> str | None:
    found = [key for key in (*PREFERRED, *NOT_PREFERRED) if key in fields]
    found = ["input", *found] if found and "input" in fields else found
    return f"has {' and '.join(f'`{key}`' for key in found)}" if found else None


def _read(row: Row) -> Conversation:
    problems: Problems = []
    asked = read_object(row.fields, "input", problems)
    prompt: tuple[Message, ...] = ()
    if not problems:
        refuse_unknown(asked, INPUT_KEYS, "input", problems)
        if require(asked, "messages", problems):
            prompt = untrain(read_some_messages(asked["messages"], problems, name="input.messages"))
    names = [_find_name(row.fields, names) for names in (PREFERRED, NOT_PREFERRED)]
    preferred, rejected = (_read_answer(row.fields, name, problems) for name in names)
    tools = read_tools(asked, problems)
    parallel = read_bool(asked, "parallel_tool_calls", problems)
    refuse(row, problems)
    return Conversation(
        number_calls((*prompt, preferred)),
        text_fields(row.fields),
        row.where,
        tools,
        parallel,
        rejected=replace(number_calls((*prompt, rejected))[-1], trained=False),
        extra=further_fields(row.fields, ["input", *names]),
    )


def _find_name(fields: Fields, names: tuple[str, str]) -> str:
    return next((name for name in names if fields.get(name) is not None), names[0])


def _read_answer(fields: Fields, name: str, problems: Problems) -> Message:
    """One of the two answers: a list of one assistant turn."""
    nothing = Message("", "", trained=False)
    if not require(fields, name, problems):
        return nothing
    value = parse_cell(fields[name])
    if not isinstance(value, list) or len(value) != 1:
        count = f"{len(value)} turns" if isinstance(value, list) else show(value)
        problems.append(("field-type", f"field `{name}` should be a list of one assistant turn, got {count}"))
        return nothing
    answers = read_some_messages(value, problems, name=name)
    if answers[0].role not in ("assistant", ""):
        problems.append(("field-type", f"field `{name}` should be an assistant turn, got role {answers[0].role!r}"))
    return answers[0]


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, ROOM)
    prompt = conversation.messages[:-1]
    if not prompt:
        losses.append("no turn comes before the answer, and the format needs an input")
    refuse_losses(conversation, losses)
    preferred = conversation.messages[-1]
    rejected = conversation.rejected or preferred
    return {
        "input": {"messages": write_messages(prompt, weights=False), **write_tools(conversation)},
        "preferred_output": [write_message(preferred, weights=False)],
        "non_preferred_output": [write_message(rejected, weights=False)],
    }


OPENAI_PREFERENCE = Format(
    "openai-preference",
    'OpenAI preference: {"input": {"messages": [...]}, "preferred_output": [{...}], "non_preferred_output": [{...}]}',
    _recognise,
    _read,
    _write,
)
