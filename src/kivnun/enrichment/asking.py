"""What a model is asked when rows are enriched, and how its answer is read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kivnun.data.conversation import Conversation, Message

Kind = Literal["paraphrase", "example"]

# So many brackets are tried as the beginning of an answer's array: text of brackets alone must not take hours.
MAX_BRACKETS = 50

SYSTEM = "You write training data. You answer with one JSON array and nothing else."
PARAPHRASE = """\
Write {number} different ways to say the text below. Keep its meaning, its language, its tone and every name, number and
placeholder. Do not answer it and do not comment. Answer with a JSON array of {number} strings.
{wishes}
The text:
{text}"""
EXAMPLE = """\
Below are examples of a task, as JSON. Write {number} new ones of the same task, in the same languages and style, with
other content. Copy none of them. {labels}Answer with a JSON array of {number} objects with the keys "input" and
"answer".
{wishes}
The examples:
{examples}"""


@dataclass(frozen=True)
class Question:
    """One request to a model.

    Attributes:
        kind: What is asked for.
        messages: The request's messages as (role, text).
        number: How many new rows are asked for.
        sources: The rows that it is made from; the first one gives the new rows their shape.
    """

    kind: Kind
    messages: tuple[tuple[str, str], ...]
    number: int
    sources: tuple[Conversation, ...]


@dataclass(frozen=True)
class Candidate:
    """A new row that was offered, before it is judged.

    Attributes:
        conversation: The row.
        question: What it answers.
    """

    conversation: Conversation
    question: Question


def ask_paraphrases(source: Conversation, number: int, wishes: str = "") -> Question:
    """Ask for other ways to say what the user says last before the answer; the answer stays as it is."""
    text = PARAPHRASE.format(number=number, wishes=wishes, text=source.messages[asked_turn(source)].content)
    return Question("paraphrase", (("system", SYSTEM), ("user", text)), number, (source,))


def ask_examples(shots: Sequence[Conversation], number: int, labels: Sequence[str] = (), wishes: str = "") -> Question:
    """Ask for new rows like some that are shown, with answers among `labels` where there are any."""
    shown = [{"input": shot.messages[asked_turn(shot)].content, "answer": shot.answer} for shot in shots]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in shown)
    allowed = f"Each answer must be one of {json.dumps(list(labels), ensure_ascii=False)}. " if labels else ""
    text = EXAMPLE.format(number=number, labels=allowed, wishes=wishes, examples=lines)
    return Question("example", (("system", SYSTEM), ("user", text)), number, tuple(shots))


def asked_turn(conversation: Conversation) -> int:
    """Index of the user's last turn before the answer.

    Raises:
        ValueError: If no user turn comes before the answer.
    """
    answer = conversation.answer_turn
    return max(index for index, turn in enumerate(conversation.messages[:answer]) if turn.role == "user")


def can_be_asked(conversation: Conversation) -> bool:
    """Whether a row has a user turn before an answer, in words alone: what calls tools or shows pictures has more."""
    if not any(message.trained for message in conversation.messages) or conversation.tools:
        return False
    turns = conversation.messages[: conversation.answer_turn + 1]
    plain = not any(turn.tool_calls or turn.images for turn in turns)
    return plain and any(turn.role == "user" for turn in turns)


def read_answer(question: Question, text: str) -> tuple[list[Candidate], int]:
    """The rows that an answer offers, and how many of its items are not what was asked for.

    Everything outside the first JSON array is ignored, since models like to talk around it. An answer without an array
    counts as one item that is not what was asked for.
    """
    items = _find_array(text)
    if items is None:
        return [], 1
    candidates = [made for item in items if (made := _make_row(question, item)) is not None]
    return candidates, len(items) - len(candidates)


def _find_array(text: str) -> list[object] | None:
    decoder = json.JSONDecoder()
    start = -1
    for _ in range(MAX_BRACKETS):
        start = text.find("[", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except RecursionError:
            return None
        except ValueError:
            # No JSON, or a number of more digits than Python reads.
            continue
        if isinstance(value, list) and value:
            return value
    return None


def _make_row(question: Question, item: object) -> Candidate | None:
    source = question.sources[0]
    if not _is_writable(item):
        return None
    if question.kind == "paraphrase":
        if not isinstance(item, str) or not item.strip():
            return None
        return Candidate(_with_text(source, asked_turn(source), item.strip()), question)
    if not isinstance(item, dict):
        return None
    asked, answer = item.get("input"), item.get("answer")
    if not (isinstance(asked, str) and isinstance(answer, str) and asked.strip() and answer.strip()):
        return None
    system = tuple(turn for turn in source.messages[:1] if turn.role in {"system", "developer"})
    turns = (*system, Message("user", asked.strip(), trained=False), Message("assistant", answer.strip(), trained=True))
    return Candidate(Conversation(turns, {}, source.where), question)


def _is_writable(item: object) -> bool:
    """Whether every character can be written: half of a surrogate pair cannot."""
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _with_text(source: Conversation, turn: int, text: str) -> Conversation:
    turns = list(source.messages)
    turns[turn] = replace(turns[turn], content=text)
    return replace(source, messages=tuple(turns))
