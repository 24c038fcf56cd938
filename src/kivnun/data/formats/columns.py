"""Tables: one column is read, another is learnt, whatever they are called."""

from collections.abc import Collection, Mapping
from functools import lru_cache

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Problems,
    further_fields,
    read_optional_text,
    read_text,
    refuse,
    refuse_losses,
    text_fields,
)
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.rows import Row

PROMPT, ANSWER = "prompt", "answer"

_TEXTS = (
    *("text", "sentence", "comment", "tweet", "review", "utterance", "phrase", "query", "post", "message", "content"),
    *("title", "headline", "body", "טקסט", "משפט", "תגובה", "ביקורת"),
)
_LABELS = (
    *("label", "labels", "category", "intent", "sentiment", "class", "tone", "emotion", "topic", "target", "tag"),
    *("תווית", "סיווג", "קטגוריה", "כוונה", "רגש"),
)
# In this order: a table with `question`, `answer` and `category` is about answers.
_PAIRS = (
    *((PROMPT, answer) for answer in (ANSWER, "response", "completion", "output", "reply")),
    *(("question", answer) for answer in (ANSWER, "response", "output", "reply")),
    *(("instruction", answer) for answer in ("response", ANSWER, "output", "reply")),
    *(("input", answer) for answer in ("output", "target", "response", ANSWER, "label")),
    *(("source", "target"), ("src", "tgt"), ("mr", "ref"), ("nl", "cm"), ("user", "assistant")),
    *((text, "summary") for text in ("article", "document", "text", "dialogue", "content")),
    *(("שאלה", "תשובה"), ("הנחיה", "תשובה"), ("קלט", "פלט"), ("טקסט", "סיכום"), ("מקור", "יעד")),
    *((text, label) for label in _LABELS for text in _TEXTS),
)
_UNNAMED = ("column_1", "column_2")
# What a question is about comes before it; what an instruction is to be done with comes behind it.
_CONTEXT_FIRST = frozenset({"question", "שאלה"})
_CONTEXT_LAST = frozenset({"instruction", "הנחיה"})
_CONTEXTS = frozenset({"context", "הקשר"})


def recognise_columns(names: Collection[str]) -> tuple[str, str] | None:
    """The column that is read and the one that is learnt, where their names are a known pair; case does not matter."""
    return _find_pair(tuple(names))


@lru_cache(maxsize=64)
def _find_pair(names: tuple[str, ...]) -> tuple[str, str] | None:
    by_name = {name.strip().casefold(): name for name in reversed(names)}
    for prompt, answer in _PAIRS:
        if prompt in by_name and answer in by_name:
            return by_name[prompt], by_name[answer]
    # Of three columns without names nobody knows which one is learnt.
    return _UNNAMED if set(names) == set(_UNNAMED) else None


def own_columns_format(names: Collection[str]) -> Format | None:
    """The format that writes a table's own column names; None without a known pair, or where a context is joined."""
    pair = recognise_columns(names)
    return None if pair is None or _find_context(pair[0], names) else columns_format(*pair)


def columns_format(prompt: str, answer: str) -> Format:
    """The format of tables in which these two columns are read and learnt.

    Args:
        prompt: Name of the column that the user's turn is made of.
        answer: Name of the column that is learnt.
    """

    def recognise(fields: Mapping[str, object]) -> str | None:
        if prompt in fields and answer in fields:
            return f"has the columns `{prompt}` and `{answer}`"
        return None

    def read(row: Row) -> Conversation:
        return _read(row, prompt, answer, context=None)

    def write(conversation: Conversation) -> dict[str, object]:
        return _write(conversation, prompt, answer)

    return Format("columns", f"a table: `{prompt}` is read, `{answer}` is learnt", recognise, read, write)


def _recognise_known(fields: Mapping[str, object]) -> str | None:
    pair = recognise_columns(fields)
    if pair is None:
        return None
    context = _find_context(pair[0], fields)
    with_context = f", with `{context}`" if context else ""
    return f"has the columns `{pair[0]}`{with_context} and `{pair[1]}`"


def _read_known(row: Row) -> Conversation:
    prompt, answer = recognise_columns(row.fields) or (PROMPT, ANSWER)
    return _read(row, prompt, answer, context=_find_context(prompt, row.fields))


def _write_known(conversation: Conversation) -> dict[str, object]:
    return _write(conversation, PROMPT, ANSWER)


def _find_context(prompt: str, names: Collection[str]) -> str | None:
    """The column of what a question or an instruction is about."""
    if prompt.strip().casefold() not in _CONTEXT_FIRST | _CONTEXT_LAST:
        return None
    return next((name for name in names if name.strip().casefold() in _CONTEXTS), None)


def _read(row: Row, prompt: str, answer: str, *, context: str | None) -> Conversation:
    problems: Problems = []
    text = read_text(row.fields, prompt, problems)
    learnt = read_text(row.fields, answer, problems)
    about = read_optional_text(row.fields, context, problems) if context else ""
    refuse(row, problems)
    if about:
        is_first = prompt.strip().casefold() in _CONTEXT_FIRST
        text = f"{about}\n\n{text}" if is_first else f"{text}\n\n{about}"
    messages = (Message("user", text, trained=False), Message("assistant", learnt, trained=True))
    extra = further_fields(row.fields, {prompt, answer, context or ""})
    return Conversation(messages, text_fields(row.fields), row.where, extra=extra)


def _write(conversation: Conversation, prompt: str, answer: str) -> dict[str, object]:
    losses = find_losses(conversation, Room(system="nowhere", own_keys=(prompt, answer)))
    texts = pair_texts(conversation, losses)
    refuse_losses(conversation, losses)
    return {prompt: texts[0], answer: texts[1], **conversation.extra}


def pair_texts(conversation: Conversation, losses: list[str]) -> tuple[str, str]:
    """The texts of a question and its answer, for formats that hold one of each; `losses` takes what else there is."""
    roles = [message.role for message in conversation.messages if message.role != "system"]
    if roles != ["user", "assistant"]:
        turns = ", ".join(roles) or "none"
        losses.append(f"it has the turns {turns}; the format holds one of the user and one of the assistant")
        return "", ""
    return conversation.messages[-2].content, conversation.messages[-1].content


COLUMNS = Format(
    "columns",
    "a table with a column that is read and one that is learnt, such as text,label or question,answer",
    _recognise_known,
    _read_known,
    _write_known,
)
