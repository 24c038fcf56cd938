"""Older shapes of Google's tuning rows, which tutorials still show: PaLM's two and Gemini 1.0's."""

from collections.abc import Collection, Mapping

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.columns import pair_texts
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    did_you_mean,
    further_fields,
    parse_cell,
    read_list,
    read_optional_text,
    read_text,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.rows import Row

_INPUT, _OUTPUT = "input_text", "output_text"
_AUTHORS = {"user": "user", "model": "assistant", "bot": "assistant", "assistant": "assistant", "system": "system"}
_ROLES = {"system": "system", "user": "user", "model": "assistant"}


def read_plain_turns(fields: Fields, speaker: str, roles: Mapping[str, str], problems: Problems) -> tuple[Message, ...]:
    """The turns of `messages` that have a speaker and a text and nothing else; every assistant turn is trained.

    Args:
        fields: The row.
        speaker: The key that tells who speaks.
        roles: Our roles by the format's.
        problems: Takes what is wrong; the turns that are returned count only where nothing is added.
    """
    turns = read_list(fields, "messages", problems)
    if require(fields, "messages", problems) and not turns and not problems:
        problems.append(("messages-empty", "field `messages` has no turns"))
    return tuple(_read_turn(turn, speaker, roles, f"turn {number}", problems) for number, turn in enumerate(turns, 1))


def _read_turn(turn: object, speaker: str, roles: Mapping[str, str], place: str, problems: Problems) -> Message:
    if not isinstance(turn, dict):
        problems.append(("message-type", f"{place} should be an object, got {show(turn)}"))
        return Message("", "", trained=False)
    name = turn.get(speaker)
    if not isinstance(name, str) or name not in roles:
        near = did_you_mean(name, roles)
        problems.append(("role-unknown", f"{place} has {speaker} {show(name)}{near} (known: {', '.join(roles)})"))
        name = ""
    place = f"{place} ({name})" if name else place
    refuse_unknown(turn, (speaker, "content"), place, problems)
    role = roles.get(name, "")
    return Message(role, _read_content(turn.get("content"), place, problems), trained=role == "assistant")


def _read_content(content: object, place: str, problems: Problems) -> str:
    """A text, or a list of texts as Anthropic and Amazon write them."""
    if isinstance(content, str):
        return content
    if content is None or content == []:
        problems.append(("content-missing", f"{place} has no content"))
        return ""
    parts = content if isinstance(content, list) else [content]
    text = ""
    for number, part in enumerate(parts, start=1):
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
            refuse_unknown(part, ("type", "text"), f"{place}, part {number}", problems)
            text += part["text"]
        else:
            problems.append(("content-type", f"{place}: content should be text, got {show(part)}"))
    return text


def write_plain_turns(
    messages: Collection[Message], speaker: str, names: Mapping[str, str], losses: list[str]
) -> list[dict[str, object]]:
    """Turns with a speaker and a text.

    Args:
        messages: The turns.
        speaker: The key that tells who speaks.
        names: The format's roles by ours.
        losses: Takes what is wrong with a row as a whole; roles without a name are `find_losses`' to tell.
    """
    if not messages:
        losses.append("it has no turns")
    return [{speaker: names.get(message.role, message.role), "content": message.content} for message in messages]


def first_turn(fields: Fields) -> Fields:
    """The first entry of `messages`, or {} where it is no object."""
    turns = parse_cell(fields.get("messages"))
    return turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}


def _recognise_text(fields: Fields) -> str | None:
    return f"has `{_INPUT}` and `{_OUTPUT}`" if _INPUT in fields and _OUTPUT in fields else None


def _read_text(row: Row) -> Conversation:
    problems: Problems = []
    texts = [read_text(row.fields, name, problems) for name in (_INPUT, _OUTPUT)]
    refuse(row, problems)
    messages = (Message("user", texts[0], trained=False), Message("assistant", texts[1], trained=True))
    extra = further_fields(row.fields, (_INPUT, _OUTPUT))
    return Conversation(messages, text_fields(row.fields), row.where, extra=extra)


def _write_text(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, Room(system="nowhere"))
    texts = pair_texts(conversation, losses)
    refuse_losses(conversation, losses)
    return dict(zip((_INPUT, _OUTPUT), texts, strict=True))


def _recognise_chat(fields: Fields) -> str | None:
    return "has `messages` with `author` and `content`" if "author" in first_turn(fields) else None


def _read_chat(row: Row) -> Conversation:
    problems: Problems = []
    messages = read_plain_turns(row.fields, "author", _AUTHORS, problems)
    context = read_optional_text(row.fields, "context", problems)
    refuse(row, problems)
    system = (Message("system", context, trained=False),) if context else ()
    extra = further_fields(row.fields, ("context", "messages"))
    return Conversation((*system, *messages), text_fields(row.fields), row.where, extra=extra)


def _write_chat(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, Room())
    messages = conversation.messages
    written: dict[str, object] = {}
    if messages and messages[0].role == "system":
        if not messages[0].content:
            losses.append("its system turn is empty")
        written["context"] = messages[0].content
        messages = messages[1:]
    written["messages"] = write_plain_turns(messages, "author", {"assistant": "model"}, losses)
    refuse_losses(conversation, losses)
    return written


def _recognise_gemini_1(fields: Fields) -> str | None:
    turns = parse_cell(fields.get("messages"))
    found = isinstance(turns, list) and any(isinstance(turn, dict) and turn.get("role") == "model" for turn in turns)
    return "has `messages` with the role `model`" if found else None


def _read_gemini_1(row: Row) -> Conversation:
    problems: Problems = []
    messages = read_plain_turns(row.fields, "role", _ROLES, problems)
    refuse(row, problems)
    extra = further_fields(row.fields, ("messages",))
    return Conversation(messages, text_fields(row.fields), row.where, extra=extra)


def _write_gemini_1(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, Room(system="anywhere"))
    written = write_plain_turns(conversation.messages, "role", {"assistant": "model"}, losses)
    refuse_losses(conversation, losses)
    return {"messages": written}


PALM_TEXT = Format(
    "palm-text",
    'PaLM text, as older tutorials show it: {"input_text": "...", "output_text": "..."}',
    _recognise_text,
    _read_text,
    _write_text,
)
PALM_CHAT = Format(
    "palm-chat",
    'PaLM chat, as older tutorials show it: {"messages": [{"author": "user", "content": "..."}, ...]}',
    _recognise_chat,
    _read_chat,
    _write_chat,
)
GEMINI_1_0 = Format(
    "gemini-1.0",
    'Gemini 1.0: {"messages": [{"role": "user", "content": "..."}, {"role": "model", "content": "..."}]}',
    _recognise_gemini_1,
    _read_gemini_1,
    _write_gemini_1,
)
