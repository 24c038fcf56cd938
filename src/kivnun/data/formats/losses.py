"""What a format has no room for: everything in a conversation that it would lose."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.calls import links_follow_order
from kivnun.data.formats.fields import data_url_type, show


@dataclass(frozen=True)
class Room:
    """What a format can hold beside the texts of user and assistant turns.

    Attributes:
        trained: Which assistant turns are learnt when the format is read: `any` where each says so, `all`, the `last`
            turn only, or `none`.
        system: Where system turns may stand.
        developer: Developer turns.
        names: Names of speakers; without it, the name of a tool's turn is that of the call that it answers.
        tools: Declared tools, calls and results.
        call_ids: Ids of calls; without them results answer calls in order.
        parallel_tool_calls: That key.
        images: Pictures.
        rejected: A rejected answer, which every row of the format has.
        desirable: Whether the answer is good, which every row of the format says.
        weights: Weights between 0 and 1.
        own_keys: Keys with a meaning in the format, where all others may stand beside them; None where none may.
    """

    trained: Literal["any", "all", "last", "none"] = "all"
    system: Literal["anywhere", "first", "nowhere"] = "first"
    developer: bool = False
    names: bool = False
    tools: bool = False
    call_ids: bool = True
    parallel_tool_calls: bool = False
    images: bool = False
    rejected: bool = False
    desirable: bool = False
    weights: bool = False
    own_keys: Collection[str] | None = None


def find_losses(conversation: Conversation, room: Room) -> list[str]:
    """What of a conversation a format with this room would lose, for messages."""
    return [
        *_lost_judgement(conversation, room),
        *_lost_roles(conversation.messages, room),
        *_lost_training(conversation.messages, room),
        *_lost_parts(conversation, room),
        *_lost_calls(conversation, room),
        *_lost_keys(conversation, room),
    ]


def _lost_roles(messages: tuple[Message, ...], room: Room) -> list[str]:
    losses: list[str] = []
    for number, message in enumerate(messages, start=1):
        if message.role == "developer" and not room.developer:
            losses.append(f"turn {number} is the developer's; the format knows system turns only")
        elif message.role == "system" and room.system == "nowhere":
            losses.append(f"turn {number} is a system turn")
        elif message.role == "system" and room.system == "first" and number > 1:
            losses.append(f"turn {number} is a system turn; the format has one place for it, at the start")
    return losses


def _lost_training(messages: tuple[Message, ...], room: Room) -> list[str]:
    losses = [
        f"turn {number} has weight {message.weight:g}; the format knows no weights between 0 and 1"
        for number, message in enumerate(messages, start=1)
        if message.trained and message.weight != 1 and not room.weights
    ]
    if room.trained == "any":
        return losses
    for number, message in enumerate(messages, start=1):
        is_last = number == len(messages)
        wanted = message.role == "assistant" and (room.trained == "all" or (room.trained == "last" and is_last))
        if message.trained and not wanted:
            losses.append(f"turn {number} is trained; the format trains {_trained_turns(room)}")
        elif wanted and not message.trained:
            losses.append(f"turn {number} (assistant) has weight 0; the format trains {_trained_turns(room)}")
    if room.trained == "last" and (not messages or messages[-1].role != "assistant"):
        losses.append("the last turn is not the assistant's; the format ends with an answer")
    return losses


def _trained_turns(room: Room) -> str:
    return {"all": "every assistant turn", "last": "the last turn only"}.get(room.trained, "no turn")


def _lost_parts(conversation: Conversation, room: Room) -> list[str]:
    losses: list[str] = []
    for number, message in enumerate(_all_messages(conversation), start=1):
        place = f"turn {number} ({message.role})" if number <= len(conversation.messages) else "the rejected answer"
        if message.name and not room.names and message.role != "tool":
            losses.append(f"{place} has the name {show(message.name)}")
        if message.images and not room.images:
            losses.append(f"{place} has {len(message.images)} picture(s)")
        typed = [image for image in message.images if image.mime_type not in ("", data_url_type(image.url))]
        if typed and room.images:
            losses.append(f"{place} has a picture of type {typed[0].mime_type}, which the format does not name")
    return losses


def _all_messages(conversation: Conversation) -> list[Message]:
    return [*conversation.messages, *([conversation.rejected] if conversation.rejected else [])]


def _lost_calls(conversation: Conversation, room: Room) -> list[str]:
    losses: list[str] = []
    messages = _all_messages(conversation)
    uses_tools = any(message.tool_calls or message.role == "tool" for message in messages)
    if not room.tools:
        losses += [f"it declares {len(conversation.tools)} tool(s)"] if conversation.tools else []
        losses += ["it has calls of tools or their results"] if uses_tools else []
    elif uses_tools and not room.call_ids and not links_follow_order(conversation.messages):
        losses.append("results do not follow their calls in order, and the format has no ids to tell which is whose")
    if conversation.parallel_tool_calls is not None and not room.parallel_tool_calls:
        losses.append("it says `parallel_tool_calls`")
    return losses


def _lost_judgement(conversation: Conversation, room: Room) -> list[str]:
    losses: list[str] = []
    if room.rejected != (conversation.rejected is not None):
        losses.append("it has no rejected answer" if room.rejected else "it has a rejected answer")
    if room.desirable != (conversation.desirable is not None):
        losses.append("it has no label, good or bad" if room.desirable else "it has a label, good or bad")
    return losses


def _lost_keys(conversation: Conversation, room: Room) -> list[str]:
    if room.own_keys is None:
        return [f"it has the further key `{key}`" for key in conversation.extra]
    clashes = [key for key in conversation.extra if key in room.own_keys]
    return [f"its further key `{key}` has another meaning in this format" for key in clashes]
