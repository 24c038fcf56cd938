"""How many rows a comparison needs, and what those that are there can show: 80 % power at p < .05, two-sided.

Reference: Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", with the
normal quantiles as its tables round them (1.96 and 0.84); for graded scores the mean square of the differences stands
for the share of rows that differ.
"""

import math
from collections.abc import Sequence

Z_ALPHA, Z_POWER = 1.96, 0.84
ASSUMED_DISCORDANT = 0.2
"""Share of rows on which two systems are taken to differ before anything was measured."""
_SLACK = 1e-9


def rows_needed(differences: Sequence[float], effect: float) -> int:
    """Rows on which a true difference of means would be shown with 80 % power.

    Args:
        differences: Candidate minus baseline of each row that was measured, from -1 to 1.
        effect: The difference of means that should be shown, above 0 and at most 1.
    """
    if not 0 < effect <= 1:
        raise ValueError(f"an effect of {effect} is none from 0 to 1")
    return _rows(_spread(differences), effect, is_binary=_is_binary(differences))


def rows_needed_at(discordant: float, effect: float) -> int:
    """The same for scores of 0 and 1, from the share of rows on which two systems differ.

    Args:
        discordant: That share.
        effect: The difference of shares that should be shown.
    """
    return _rows(discordant, effect, is_binary=True)


def detectable(differences: Sequence[float], num_rows: int | None = None) -> float:
    """The smallest difference of means that would be shown with 80 % power; 1 where none would.

    Args:
        differences: Candidate minus baseline of each row that was measured.
        num_rows: Rows that there are; those that were measured if not given.
    """
    rows = len(differences) if num_rows is None else num_rows
    return _detectable(_spread(differences), rows, is_binary=_is_binary(differences))


def say_power(num_rows: int, differences: Sequence[float] = (), *, effect: float = 0.05) -> str:
    """What a number of rows can show, in words.

    Args:
        num_rows: Rows that there are.
        differences: Differences that were measured; without them it is assumed how often two systems differ.
        effect: A difference that would matter.
    """
    spread = _spread(differences) if differences else ASSUMED_DISCORDANT
    is_binary = _is_binary(differences)
    smallest = _detectable(spread, num_rows, is_binary=is_binary)
    needed = _rows(spread, effect, is_binary=is_binary)
    why = "from the differences measured" if differences else "if one answer in five differs"
    rows = "1 row" if num_rows == 1 else f"{num_rows:,} rows"
    shows = (
        f"{rows} can show a difference of {100 * smallest:.1f} points or more (80 % power at p < .05, {why})"
        if smallest < 1
        else f"{rows} are too few to show any difference (80 % power at p < .05, {why})"
    )
    if needed <= num_rows:
        return shows
    return f"{shows}; {100 * effect:g} points need about {needed:,}"


def _spread(differences: Sequence[float]) -> float:
    """The mean square; where no row differs, that of two rows more, one won and one lost."""
    if not differences:
        raise ValueError("no difference was measured")
    total = math.fsum(each * each for each in differences)
    return total / len(differences) if total else 2 / (len(differences) + 2)


def _is_binary(differences: Sequence[float]) -> bool:
    return all(each in (-1, 0, 1) for each in differences)


def _rows(spread: float, effect: float, *, is_binary: bool) -> int:
    # Systems cannot differ in the mean by more than they differ at all: as many rows, or differences as large.
    widest = max(spread, effect if is_binary else effect * effect)
    root = Z_ALPHA * math.sqrt(widest) + Z_POWER * math.sqrt(widest - effect * effect)
    return math.ceil((root / effect) ** 2 - _SLACK)


def _detectable(spread: float, num_rows: int, *, is_binary: bool) -> float:
    """By halving: the rows that are needed fall as the effect grows."""
    low, high = 0.0, 1.0
    if _rows(spread, high, is_binary=is_binary) > num_rows:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        if _rows(spread, middle, is_binary=is_binary) <= num_rows:
            high = middle
        else:
            low = middle
    return high
