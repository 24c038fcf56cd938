"""Prompt and completion: the oldest format, two texts; TRL also writes each as a list of turns."""

from collections.abc import Collection

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    read_text,
    refuse,
    refuse_losses,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import TOOL_KEYS, read_some_messages, read_tools, untrain
from kivnun.data.rows import Row

SIDES = frozenset({"prompt", "completion"})
ROW_KEYS = TOOL_KEYS | SIDES
ROOM = Room(system="nowhere", own_keys=ROW_KEYS)


def read_side(fields: Fields, name: str, role: str, problems: Problems) -> tuple[Message, ...]:
    """A field that holds the text of one turn, or a list of turns.

    Args:
        fields: The row's fields.
        name: The field.
        role: Whose turn a text is.
        problems: Takes what is wrong.
    """
    value = fields.get(name)
    turns = parse_cell(value)
    if isinstance(turns, list) and (turns is value or _are_turns(turns)):
        return read_some_messages(turns, problems, name=name)
    return (Message(role, read_text(fields, name, problems), role == "assistant"),)


def _are_turns(values: Collection[object]) -> bool:
    """Whether a text is JSON of turns, and not a text that happens to be JSON."""
    return bool(values) and all(isinstance(value, dict) and "role" in value for value in values)


def _recognise(fields: Fields) -> str | None:
    return "has `prompt` and `completion`" if fields.keys() >= SIDES else None


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    prompt = untrain(read_side(fields, "prompt", "user", problems))
    answer = read_side(fields, "completion", "assistant", problems)
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    messages = number_calls((*prompt, *answer))
    extra = further_fields(fields, ROW_KEYS)
    return Conversation(messages, text_fields(fields), row.where, tools, parallel, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, ROOM)
    roles = [message.role for message in conversation.messages]
    if roles != ["user", "assistant"] and "system" not in roles:
        losses.append(f"its turns are {', '.join(roles)}; the format holds one question and one answer")
    refuse_losses(conversation, losses)
    prompt, answer = conversation.messages
    return {"prompt": prompt.content, "completion": answer.content, **conversation.extra}


PROMPT_COMPLETION = Format(
    "prompt-completion",
    'prompt and completion: {"prompt": "...", "completion": "..."}',
    _recognise,
    _read,
    _write,
)
