"""Rows to tune Claude 3 Haiku with on Amazon Bedrock: a `system` text and turns that alternate."""

from itertools import pairwise

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_optional_text,
    refuse,
    refuse_losses,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.seeds import first_turn, read_plain_turns, write_plain_turns
from kivnun.data.rows import Row

_ROLES = {"user": "user", "assistant": "assistant"}


def _recognise(fields: Fields) -> str | None:
    # Without `system` the rows are those of a plain OpenAI chat, word for word.
    role = first_turn(fields).get("role")
    is_chat = isinstance(role, str) and role in _ROLES and "system" in fields
    return "has `system` beside `messages` with `role` and `content`" if is_chat else None


def _read(row: Row) -> Conversation:
    problems: Problems = []
    messages = read_plain_turns(row.fields, "role", _ROLES, problems)
    system = _read_system(row.fields, problems)
    refuse(row, problems)
    extra = further_fields(row.fields, ("system", "messages"))
    return Conversation((*system, *messages), text_fields(row.fields), row.where, extra=extra)


def _read_system(fields: Fields, problems: Problems) -> tuple[Message, ...]:
    value = parse_cell(fields.get("system"))
    if isinstance(value, list) and all(isinstance(part, dict) and set(part) == {"text"} for part in value):
        text = "".join(str(part["text"]) for part in value)
    else:
        text = read_optional_text(fields, "system", problems)
    return (Message("system", text, trained=False),) if text else ()


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, Room())
    messages = conversation.messages
    written: dict[str, object] = {}
    if messages and messages[0].role == "system":
        if not messages[0].content:
            losses.append("its system turn is empty")
        written["system"] = messages[0].content
        messages = messages[1:]
    losses += _lost_order(messages)
    written["messages"] = write_plain_turns(messages, "role", {}, losses)
    refuse_losses(conversation, losses)
    return written


def _lost_order(messages: tuple[Message, ...]) -> list[str]:
    """Bedrock takes turns only that alternate, from a user's first to an assistant's last."""
    if not messages:
        return []
    losses = [
        f"two turns of the {first.role} follow each other; Bedrock wants user and assistant by turns"
        for first, second in pairwise(messages)
        if first.role == second.role
    ]
    if messages[0].role != "user":
        losses.append(f"the first turn is the {messages[0].role}'s; Bedrock wants the user's")
    if messages[-1].role != "assistant":
        losses.append(f"the last turn is the {messages[-1].role}'s; Bedrock wants the assistant's")
    return losses


BEDROCK_CLAUDE = Format(
    "bedrock-claude",
    'Claude on Bedrock: {"system": "...", "messages": [{"role": "user", "content": "..."}, ...]}',
    _recognise,
    _read,
    _write,
)
