"""Times of rows, for splits by time: ISO 8601 dates or numbers, and nothing that would have to be guessed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kivnun.data.sources import first_problems
from kivnun.errors import UserError

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, order=True)
class Moment:
    """A time that can be ordered.

    Attributes:
        value: Seconds since 1970 in UTC, or the number as it stands.
        text: As it is written in the file.
    """

    value: float
    text: str = field(compare=False)


def read_moments(texts: Sequence[str], places: Sequence[str], column: str) -> list[Moment]:
    """The times of all rows.

    Args:
        texts: What stands in the column.
        places: `file:line` of each row.
        column: Its name.

    Raises:
        UserError: `data-field` naming rows whose value is no time, or is a date where the others are numbers.
    """
    moments: list[Moment] = []
    problems: list[str] = []
    first_kind = ""
    for text, where in zip(texts, places, strict=True):
        kind, value = _read_time(text.strip())
        first_kind = first_kind or kind
        if value is None:
            problems.append(f"{where}: field {column!r} is no date and no number: {text!r}")
        elif kind != first_kind:
            problems.append(f"{where}: field {column!r} is a {kind}, but the first row's is a {first_kind}: {text!r}")
        else:
            moments.append(Moment(value, text.strip()))
    if problems:
        raise UserError(
            "data-field",
            f"{len(problems)} row(s) have no time to split by",
            details=first_problems(problems),
            hint="write dates as 2024-05-31 or 2024-05-31T12:00:00Z, or split by another column",
        )
    return moments


def _read_time(text: str) -> tuple[str, float | None]:
    """Kind and value of a time; a date without a zone is taken as UTC."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        return "number", number if math.isfinite(number) else None
    is_month = len(text) == len("2024-05") and text[4:5] == "-"
    try:
        moment = datetime.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:
        return "", None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return "date", (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
