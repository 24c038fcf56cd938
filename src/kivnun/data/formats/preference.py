"""Preference rows as TRL and LLaMA-Factory write them: what was asked, `chosen` and `rejected`."""

from collections.abc import Sequence
from dataclasses import replace

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.alpaca import PROMPT_KEYS, read_instruction
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.completion import read_side
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    read_optional_text,
    read_text,
    refuse,
    refuse_losses,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import TOOL_KEYS, read_tools, untrain, write_message, write_messages, write_tools
from kivnun.data.formats.sharegpt import read_turn, read_turns
from kivnun.data.rows import Row

ANSWERS = ("chosen", "rejected")
COLUMNS = ("conversations", "messages")
ASKING = ("prompt", *COLUMNS, "instruction")
ANSWER_KEYS = TOOL_KEYS | {*ANSWERS, "system"}
ROOM = Room(
    trained="last",
    system="anywhere",
    developer=True,
    names=True,
    tools=True,
    parallel_tool_calls=True,
    rejected=True,
    own_keys=ANSWER_KEYS | {"prompt"},
)


def _recognise(fields: Fields) -> str | None:
    found = [key for key in ANSWERS if key in fields]
    asking = [key for key in ASKING if key in fields][:1]
    is_known = len(found) == 2 or (found and asking)
    return f"has {' and '.join(f'`{key}`' for key in [*asking, *found])}" if is_known else None


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    prompt, column = _read_prompt(fields, problems)
    answers = [_read_answer(fields, name, problems) for name in ANSWERS]
    if not problems:
        prompt = _find_prompt(prompt, answers, column, problems)
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    chosen, rejected = (number_calls((*untrain(prompt), answer[-1])) for answer in answers)
    return Conversation(
        chosen,
        text_fields(fields),
        row.where,
        tools,
        parallel,
        rejected=replace(rejected[-1], trained=False),
        extra=further_fields(fields, ANSWER_KEYS | (PROMPT_KEYS if column == "instruction" else {column})),
    )


def _read_prompt(fields: Fields, problems: Problems) -> tuple[tuple[Message, ...], str]:
    """What was asked, and the field that it stands in; "" where only the answers tell."""
    column = next((name for name in ASKING if fields.get(name) is not None), "")
    if column == "instruction":
        return read_instruction(fields, problems), column
    system = read_optional_text(fields, "system", problems)
    turns = (Message("system", system, trained=False),) if system else ()
    if column == "prompt":
        turns += read_side(fields, "prompt", "user", problems)
    elif column:
        turns += read_turns(fields[column], problems, name=column)
    return turns, column


def _read_answer(fields: Fields, name: str, problems: Problems) -> tuple[Message, ...]:
    """An answer as text, as one turn, or as the last of several turns."""
    if not require(fields, name, problems):
        return ()
    value = parse_cell(fields[name])
    if isinstance(value, dict) and ("role" in value or "from" in value or value is fields[name]):
        return (_as_answer(read_turn(value, name, problems), name, problems),)
    if isinstance(value, list) and (value is fields[name] or all(isinstance(turn, dict) for turn in value)):
        turns = read_turns(value, problems, name=name)
        return (*turns[:-1], _as_answer(turns[-1], name, problems)) if turns else ()
    return (Message("assistant", read_text(fields, name, problems), trained=True),)


def _as_answer(turn: Message, name: str, problems: Problems) -> Message:
    if turn.role not in ("assistant", ""):
        problems.append(("field-type", f"field `{name}` should end with an assistant turn, got role {turn.role!r}"))
    return turn


def _find_prompt(
    prompt: tuple[Message, ...], answers: Sequence[tuple[Message, ...]], column: str, problems: Problems
) -> tuple[Message, ...]:
    """The turns before the answers, which may stand in them and, once more, in a field of their own."""
    before, other = (answer[:-1] for answer in answers)
    if before != other:
        problems.append(("field-type", "`chosen` and `rejected` differ before their last turns, where they may not"))
    elif not before and not prompt:
        problems.append(("field-missing", "field `prompt` is missing, and the answers do not begin with it"))
    elif before and before[0].role == "assistant":
        return (*prompt, *before)
    elif before and prompt and not _repeats(prompt, before):
        shown = show(prompt[-1].content)
        problems.append(("field-type", f"field `{column}` is {shown}, which is not what `chosen` begins with"))
    return before or prompt


def _repeats(prompt: Sequence[Message], before: Sequence[Message]) -> bool:
    """Whether a prompt says no more than the turns that the answers begin with."""
    texts = [(turn.role, turn.content) for turn in before]
    return all((turn.role, turn.content) in texts for turn in prompt)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, ROOM)
    prompt = conversation.messages[:-1]
    if not prompt:
        losses.append("no turn comes before the answer, and the format needs a prompt")
    refuse_losses(conversation, losses)
    chosen = conversation.messages[-1]
    return {
        "prompt": write_messages(prompt, weights=False),
        "chosen": [write_message(chosen, weights=False)],
        "rejected": [write_message(conversation.rejected or chosen, weights=False)],
        **write_tools(conversation),
        **conversation.extra,
    }


PREFERENCE = Format(
    "preference",
    'preference: {"prompt": ..., "chosen": ..., "rejected": ...}, each a text or turns (TRL, LLaMA-Factory)',
    _recognise,
    _read,
    _write,
)
