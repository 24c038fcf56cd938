"""Scores of parts of the rows: by a column, by the script they are written in, by the length of their prompt."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kivnun.data.checks.scripts import main_script
from kivnun.errors import UserError
from kivnun.evaluation.intervals import mean_estimate
from kivnun.evaluation.results import Estimate

LANGUAGE, LENGTH, FIELD = "language", "length", "field"
BY_ITSELF = (LANGUAGE, LENGTH)
"""Slices that every row has; a column of that name is taken in their place."""
OTHERS = "(others)"
NONE = "(none)"
MAX_VALUES = 20
RESAMPLES = 1000


class SlicedRow(Protocol):
    """What is needed of a row."""

    @property
    def where(self) -> str:
        """`file:line`."""
        ...

    @property
    def prompt(self) -> str:
        """What is asked."""
        ...

    @property
    def fields(self) -> Mapping[str, str]:
        """The row's fields."""
        ...


@dataclass(frozen=True)
class SliceScore:
    """The main metric on a part of the rows.

    Attributes:
        by: What parts them: a column, `language`, `length`, or `field` for the fields of an extraction.
        value: What they have in common.
        num_rows: How many they are.
        score: The mean, with its interval.
    """

    by: str
    value: str
    num_rows: int
    score: Estimate

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {"by": self.by, "value": self.value, "num_rows": self.num_rows, "score": self.score.to_json()}


def slice_scores(
    rows: Sequence[SlicedRow], scores: Sequence[float], by: str, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[SliceScore]:
    """The mean score of each part, the largest first; lengths from short to long.

    A column with more than 20 values shows the 20 commonest, and the others as one part.

    Args:
        rows: The rows.
        scores: Score of each.
        by: A column, or `language` or `length`.
        seed: Of the resampling behind intervals.
        resamples: How many.

    Raises:
        UserError: `evaluation-invalid` where no row has the column.
    """
    parts: dict[str, list[float]] = {}
    shortest: dict[str, int] = {}
    for row, value, score in zip(rows, slice_values(rows, by), scores, strict=True):
        parts.setdefault(value, []).append(score)
        shortest[value] = min(len(row.prompt), shortest.get(value, len(row.prompt)))
    if by == LENGTH and by not in _columns(rows):
        parts = {value: parts[value] for value in sorted(parts, key=lambda value: shortest[value])}
    else:
        parts = _largest(parts)
    return [
        SliceScore(by, value, len(found), mean_estimate(found, seed=seed, resamples=resamples))
        for value, found in parts.items()
    ]


def slice_values(rows: Sequence[SlicedRow], by: str) -> list[str]:
    """What each row has, of what the rows are parted by.

    Args:
        rows: The rows.
        by: A column, or `language` or `length`.

    Raises:
        UserError: `evaluation-invalid` where no row has the column.
    """
    columns = _columns(rows)
    if by in columns:
        return [row.fields.get(by, "").strip() or NONE for row in rows]
    if by == LANGUAGE:
        return [main_script(row.prompt) or NONE for row in rows]
    if by == LENGTH:
        say = _say_length([len(row.prompt) for row in rows])
        return [say(len(row.prompt)) for row in rows]
    raise UserError(
        "evaluation-invalid",
        f"evaluation.slices: no row has a column {by!r}",
        details=[f"columns: {', '.join(columns)}"],
        hint="name columns of the data",
    )


def _columns(rows: Sequence[SlicedRow]) -> dict[str, None]:
    return dict.fromkeys(name for row in rows for name in row.fields)


def _largest(parts: Mapping[str, list[float]]) -> dict[str, list[float]]:
    ordered = sorted(parts, key=lambda value: (-len(parts[value]), value))
    shown = {value: parts[value] for value in ordered[:MAX_VALUES]}
    rest = [score for value in ordered[MAX_VALUES:] for score in parts[value]]
    return {**shown, OTHERS: rest} if rest else shown


def _say_length(lengths: Sequence[int]) -> Callable[[int], str]:
    """Thirds of the rows by their number of characters; fewer where many are equally long."""
    ordered = sorted(lengths)
    bounds = sorted({ordered[math.ceil(len(ordered) * part / 3) - 1] for part in (1, 2, 3)})

    def say(length: int) -> str:
        number = next(index for index, bound in enumerate(bounds) if length <= bound)
        first = bounds[number - 1] + 1 if number else ordered[0]
        return f"{first} to {bounds[number]} characters" if first < bounds[number] else f"{first} characters"

    return say
