"""Running text: a column `text`, which is learnt whole."""

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    read_text,
    refuse,
    refuse_losses,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.rows import Row

_TEXT = "text"


def _recognise(fields: Fields) -> str | None:
    return "has `text`, and no column that would be its answer" if isinstance(fields.get(_TEXT), str) else None


def _read(row: Row) -> Conversation:
    problems: Problems = []
    text = read_text(row.fields, _TEXT, problems)
    refuse(row, problems)
    extra = further_fields(row.fields, (_TEXT,))
    return Conversation((Message("assistant", text, trained=True),), text_fields(row.fields), row.where, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, Room(system="nowhere", own_keys=(_TEXT,)))
    roles = [message.role for message in conversation.messages]
    if roles != ["assistant"]:
        losses.append(f"it has the turns {', '.join(roles) or 'none'}; running text has no turns")
    refuse_losses(conversation, losses)
    return {_TEXT: conversation.messages[0].content, **conversation.extra}


TEXT = Format("text", 'running text: {"text": "..."}, learnt whole', _recognise, _read, _write)
