"""OpenAI's rows for reinforcement: turns that end with the user, and keys for a grader."""

from kivnun.data.conversation import Conversation
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_bool,
    refuse,
    refuse_losses,
    require,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import CHAT_KEYS, read_messages, read_tools, untrain, write_messages, write_tools
from kivnun.data.rows import Row

ROOM = Room(
    trained="none",
    system="anywhere",
    developer=True,
    names=True,
    tools=True,
    parallel_tool_calls=True,
    images=True,
    own_keys=CHAT_KEYS,
)


def _recognise(fields: Fields) -> str | None:
    turns = parse_cell(fields.get("messages"))
    last = turns[-1] if isinstance(turns, list) and turns else None
    ends_with_user = isinstance(last, dict) and last.get("role") == "user" and "content" in last
    # Without a key for a grader, a chat row that lost its answer is the likelier reading.
    further = list(further_fields(fields, CHAT_KEYS)) if ends_with_user else []
    return f"has `messages` that end with the user, and {', '.join(f'`{key}`' for key in further)}" if further else None


def _read(row: Row) -> Conversation:
    fields = row.fields
    problems: Problems = []
    messages = read_messages(fields["messages"], problems) if require(fields, "messages", problems) else ()
    tools = read_tools(fields, problems)
    parallel = read_bool(fields, "parallel_tool_calls", problems)
    refuse(row, problems)
    extra = further_fields(fields, CHAT_KEYS)
    return Conversation(untrain(messages), text_fields(fields), row.where, tools, parallel, extra=extra)


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, ROOM)
    if not conversation.messages or conversation.messages[-1].role != "user":
        losses.append("the last turn is not the user's; a row for reinforcement ends with what is asked")
    refuse_losses(conversation, losses)
    messages = write_messages(conversation.messages, weights=False)
    return {"messages": messages, **write_tools(conversation), **conversation.extra}


OPENAI_REINFORCEMENT = Format(
    "openai-reinforcement",
    'OpenAI reinforcement: {"messages": [..., {"role": "user", "content": "..."}], "reference": ...}',
    _recognise,
    _read,
    _write,
)
