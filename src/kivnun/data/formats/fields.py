"""Pieces that every format reads and writes with: cells as text, lists and objects, and all that is wrong with a row.

A reader appends what it finds to a list of problems, each a code of `CHECKS` and a message, and reads on; `refuse`
raises them together. A writer does the same with a list of losses and `refuse_losses`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import cast

import orjson

from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding, RowError
from kivnun.data.rows import Row

Problems = list[tuple[str, str]]
"""What is wrong with a row: codes of `CHECKS` with their messages."""

Fields = Mapping[str, object]
"""The fields of a row, or of an object in it."""

SHOWN_CHARACTERS = 60
MAX_DEPTH = 200
"""How deeply lists and objects may be nested in a text; a little more, and they could not be written again."""

SAYS_NOTHING: tuple[object, ...] = (None, [], {})
"""Values of keys that exports of chats carry and that mean the same as no key."""


def show(value: object) -> str:
    """A value for a message of one line."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean ...?` where a known word is near, else nothing."""
    near = get_close_matches(str(word), list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def text_fields(fields: Fields) -> dict[str, str]:
    """The fields that are plain values or lists of texts, as text: what templates, labels and reports read."""
    texts: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, str):
            texts[name] = value
        elif isinstance(value, int | float):
            texts[name] = plain_text(value)
        elif is_text_list(value):
            texts[name] = json_text(value)
    return texts


def is_text_list(value: object) -> bool:
    """Whether a value is a list of texts, such as further right answers."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in cast("list[object]", value))
    )


def json_text(value: object) -> str:
    """A value as JSON text."""
    return orjson.dumps(value).decode()


def plain_text(value: str | int | float) -> str:
    """A plain value as text; booleans as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_cell(value: object) -> object:
    """A list or an object that a table's cell holds as JSON text; any other value as it stands."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            loaded = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
        return value if is_deep(loaded) else loaded
    return value


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested more deeply than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        lists = [item for item in level if isinstance(item, list)]
        lists += [item.values() for item in level if isinstance(item, dict)]
        level = [inner for items in lists for inner in items]
        if not level:
            return False
    return True


def require(fields: Fields, name: str, problems: Problems) -> bool:
    """Whether a field is there; noted where it is not."""
    if fields.get(name) is not None:
        return True
    code = "null" if name in fields else "missing"
    problems.append((f"field-{code}", f"field `{name}` is {code}"))
    return False


def read_text(fields: Fields, name: str, problems: Problems) -> str:
    """A field that must be there, as text; it may be empty."""
    value = fields.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return plain_text(value)
    if require(fields, name, problems):
        problems.append(("field-type", f"field `{name}` should be text, got {show(value)}"))
    return ""


def read_optional_text(fields: Fields, name: str, problems: Problems) -> str:
    """A field that may be absent or null, as text; "" then."""
    return "" if fields.get(name) is None else read_text(fields, name, problems)


def read_list(fields: Fields, name: str, problems: Problems) -> list[object]:
    """A field that holds a list, or JSON text of one; [] where it is absent, null or an empty cell."""
    value = parse_cell(fields.get(name))
    if isinstance(value, list):
        return value
    if value not in (None, ""):
        problems.append(("field-type", f"field `{name}` should be a list, got {show(value)}"))
    return []


def read_object(fields: Fields, name: str, problems: Problems) -> Fields:
    """A field that must hold an object, or JSON text of one; {} where it does not."""
    value = parse_cell(fields.get(name))
    if isinstance(value, dict):
        return cast("Fields", value)
    if require(fields, name, problems):
        problems.append(("field-type", f"field `{name}` should be an object, got {show(value)}"))
    return {}


def read_bool(fields: Fields, name: str, problems: Problems, *, code: str = "field-type") -> bool | None:
    """A field that is true or false, in a table's cell as text; None where it is absent, null or something else."""
    value = fields.get(name)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if value not in (None, ""):
        problems.append((code, f"field `{name}` should be true or false, got {show(value)}"))
    return None


def further_fields(fields: Fields, known: Collection[str]) -> dict[str, object]:
    """The keys that are no part of a format, for `Conversation.extra`; null says nothing."""
    return {name: value for name, value in fields.items() if name not in known and value is not None}


def refuse_unknown(item: Fields, known: Collection[str], place: str, problems: Problems) -> None:
    """Note every key of an object inside a row that its format does not know: its value would be lost."""
    for key, value in item.items():
        if key not in known and value not in SAYS_NOTHING:
            meant = did_you_mean(key, known)
            problems.append(("field-unknown", f"{place} has an unknown key `{key}`: {show(value)}{meant}"))


def data_url_type(url: str) -> str:
    """The type that a data URL names (`data:image/png;base64,...`), or ""."""
    head = url.partition(",")[0].partition(";")[0] if url.startswith("data:") else ""
    return head.removeprefix("data:")


def refuse(row: Row, problems: Sequence[tuple[str, str]]) -> None:
    """Raise what was noted, if anything was.

    Raises:
        RowError: With every problem.
    """
    if problems:
        raise RowError([Finding(code, row.file, row.line, message) for code, message in problems])


def refuse_losses(conversation: Conversation, losses: Sequence[str]) -> None:
    """Raise what a format cannot hold, if there is anything.

    Raises:
        RowError: With a `format-loss` for each loss.
    """
    if losses:
        file, _, line = conversation.where.rpartition(":")
        place = (file, int(line)) if file and line.isdecimal() else (conversation.where, 0)
        raise RowError([Finding("format-loss", *place, loss) for loss in losses])
