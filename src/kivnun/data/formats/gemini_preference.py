"""Gemini's preference rows: `contents` that end with the user, and two `completions` with their scores."""

from dataclasses import replace

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    read_list,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.gemini import SYSTEM_KEYS, read_turns, write_turns
from kivnun.data.formats.gemini_parts import read_content, write_contents
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.formats.openai_chat import untrain
from kivnun.data.rows import Row

_KEYS = frozenset({*SYSTEM_KEYS, "contents", "completions"})
_ROOM = Room(trained="last", rejected=True)


def _read_completions(fields: Fields, problems: Problems) -> tuple[Message, Message]:
    """The preferred and the rejected answer; they count only where no problem is added."""
    by_score: dict[object, Message] = {}
    scores: list[object] = []
    completions = read_list(fields, "completions", problems)
    for number, item in enumerate(completions, start=1):
        place = f"completion {number}"
        if not isinstance(item, dict):
            problems.append(("message-type", f"{place} should be an object, got {show(item)}"))
            continue
        refuse_unknown(item, ("score", "completion"), place, problems)
        score = item.get("score")
        scores.append(score)
        answers = read_content(item.get("completion"), place, problems)
        if answers and answers[0].role != "assistant":
            problems.append(("role-unknown", f"{place} should be the model's"))
        elif answers and not isinstance(score, list | dict):
            by_score[score] = replace(answers[0], trained=False)
    has_both = len(scores) == 2 and 0 in scores and 1 in scores
    if require(fields, "completions", problems) and not has_both:
        problems.append(("field-type", f"field `completions` should have the scores 1 and 0, got {show(scores)}"))
    nothing = Message("", "", trained=False)
    return by_score.get(1, nothing), by_score.get(0, nothing)


def _recognise(fields: Fields) -> str | None:
    return "has `contents` and `completions`" if "contents" in fields and "completions" in fields else None


def _read(row: Row) -> Conversation:
    problems: Problems = []
    prompt = untrain(read_turns(row.fields, problems))
    preferred, rejected = _read_completions(row.fields, problems)
    refuse(row, problems)
    return Conversation(
        number_calls((*prompt, replace(preferred, trained=True))),
        text_fields(row.fields),
        row.where,
        rejected=number_calls((*prompt, rejected))[-1],
        extra=further_fields(row.fields, _KEYS),
    )


def _write(conversation: Conversation) -> dict[str, object]:
    losses = find_losses(conversation, _ROOM)
    # The rejected answer is no turn of its own, and without a last one there is nothing to prefer.
    prompt = replace(conversation, messages=conversation.messages[:-1])
    written = write_turns(prompt, SYSTEM_KEYS[1], losses)
    answers = write_contents(
        [message for message in (*conversation.messages[-1:], conversation.rejected) if message], losses
    )
    refuse_losses(conversation, losses)
    completions = [{"score": score, "completion": answer} for score, answer in zip((1, 0), answers, strict=True)]
    return {**written, "completions": completions}


GEMINI_PREFERENCE = Format(
    "gemini-preference",
    'Gemini preference: {"contents": [...], "completions": [{"score": 1, "completion": {...}}, {"score": 0, ...}]}',
    _recognise,
    _read,
    _write,
)
