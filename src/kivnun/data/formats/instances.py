"""Rows of known collections, only read: Super-NaturalInstructions, Snips and SQuAD, as their files are laid out."""

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_optional_text,
    read_text,
    refuse,
    require,
    show,
    text_fields,
)
from kivnun.data.rows import Row

REFERENCES = "references"


def _recognise_super_ni(fields: Fields) -> str | None:
    if "definition" in fields and "input" in fields and "output" in fields:
        return "has `definition`, `input` and `output`"
    return None


def _read_super_ni(row: Row) -> Conversation:
    problems: Problems = []
    definition = read_text(row.fields, "definition", problems)
    asked = read_text(row.fields, "input", problems)
    answers = _read_answers(row.fields, "output", problems)
    refuse(row, problems)
    prompt = f"{definition}\n\n{asked}" if definition else asked
    return _ask(row, prompt, answers, further_fields(row.fields, ("definition", "input", "output")))


def _recognise_snips(fields: Fields) -> str | None:
    has_slots = "slots" in fields or "entities" in fields
    return "has `text`, `intent` and `slots`" if has_slots and "text" in fields and "intent" in fields else None


def _read_snips(row: Row) -> Conversation:
    problems: Problems = []
    text, intent = (read_text(row.fields, name, problems) for name in ("text", "intent"))
    refuse(row, problems)
    return _ask(row, text, [intent], further_fields(row.fields, ("text", "intent")))


def _recognise_squad(fields: Fields) -> str | None:
    return "has `context`, `question` and `answers`" if fields.keys() >= {"context", "question", "answers"} else None


def _read_squad(row: Row) -> Conversation:
    problems: Problems = []
    context = read_optional_text(row.fields, "context", problems)
    question = read_text(row.fields, "question", problems)
    extra = further_fields(row.fields, ("context", "question", "answers"))
    fields, name = row.fields, "answers"
    found = parse_cell(fields.get(name))
    if isinstance(found, dict):
        fields, name = {f"answers.{key}": value for key, value in found.items()}, "answers.text"
        # Where the answers stand in the context is kept beside them.
        extra |= further_fields(fields, (name,))
    answers = _read_answers(fields, name, problems)
    refuse(row, problems)
    return _ask(row, f"{context}\n\n{question}" if context else question, answers, extra)


def _read_answers(fields: Fields, name: str, problems: Problems) -> list[str]:
    """The different answers that a row gives, at least one of them unless there is a problem."""
    if not require(fields, name, problems):
        return []
    value = parse_cell(fields[name])
    answers = value if isinstance(value, list) else [value]
    texts = [str(answer) for answer in answers if isinstance(answer, str | int | float)]
    if len(texts) < len(answers):
        problems.append(("field-type", f"field `{name}` should be a list of texts, got {show(value)}"))
    elif not texts:
        problems.append(("field-empty", f"field `{name}` has no answer"))
    return list(dict.fromkeys(texts))


def _ask(row: Row, prompt: str, answers: list[str], extra: dict[str, object]) -> Conversation:
    """A question and its first answer; the others are kept as references."""
    if len(answers) > 1:
        name = REFERENCES
        while name in extra:
            name += "_"
        extra[name] = answers[1:]
    messages = (Message("user", prompt, trained=False), Message("assistant", answers[0], trained=True))
    return Conversation(messages, text_fields(row.fields), row.where, extra=extra)


SUPER_NI = Format(
    "super-ni",
    'Super-NaturalInstructions, only read: {"definition": "...", "input": "...", "output": ["..."]}',
    _recognise_super_ni,
    _read_super_ni,
)
SNIPS = Format(
    "snips",
    'Snips utterances, only read: {"text": "...", "intent": "...", "slots": [...]}; the intent is learnt',
    _recognise_snips,
    _read_snips,
)
SQUAD = Format(
    "squad",
    'SQuAD, only read: {"context": "...", "question": "...", "answers": {"text": ["..."]}}; the first answer is learnt',
    _recognise_squad,
    _read_squad,
)
