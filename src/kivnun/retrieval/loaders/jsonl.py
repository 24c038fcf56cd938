"""JSON Lines: a document in each line, with the fields `id` and `text`, perhaps `title`, and values to filter by."""

import json
from typing import NoReturn

from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed, cut_paragraphs, keep_scalars, shorten_title

_OWN_FIELDS = ("id", "text", "title")


def load_record(line: bytes) -> tuple[str, Parsed]:
    """The id and the text of one line.

    Raises:
        CannotReadError: If the line is not such a record.
    """
    record = _read_object(line)
    identity, text = record.get("id"), record.get("text")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or not str(identity).strip():
        raise CannotReadError("has no `id` (a text or a whole number)")
    if not isinstance(text, str):
        raise CannotReadError("has no `text`")
    title = record.get("title")
    kept, dropped = keep_scalars({name: value for name, value in record.items() if name not in _OWN_FIELDS})
    dropped += ["title"] if title is not None and not isinstance(title, str) else []
    notes = (f"fields that cannot be filtered by: {', '.join(dropped)}",) if dropped else ()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    title = shorten_title(title) if isinstance(title, str) else ""
    return str(identity), Parsed(text, cut_paragraphs(text), title, kept, notes)


def _read_object(line: bytes) -> dict[str, object]:
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise CannotReadError("is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise CannotReadError(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise CannotReadError("is not a JSON object")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
