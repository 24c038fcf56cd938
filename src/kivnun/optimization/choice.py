"""Which of several measured forms is shipped: the Pareto front, the limits, and one rule that picks.

The rule, so that it can be said in a sentence: of the forms that keep every limit, those that lose no more than 1 % of
the best score count as equally good, and of the smallest of them, which are those within 5 % of the smallest size, the
one nearest to the tuned model is taken. Sizes and distances do not vary between runs, times do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.optimization.measure import Speed, with_speed
from kivnun.recipe.optimization import OptimizationSection, relative_score, size_bytes

EQUAL_QUALITY = 0.99
"""Share of the best quality from which on a form counts as equally good."""

EQUAL_SIZE = 1.05
"""Size, as a share of the smallest, up to which a form counts as equally small."""

Goal = Callable[[ParityRow], float | None]


@dataclass(frozen=True)
class Choice:
    """What was picked, and why not the others.

    Attributes:
        name: Of the form that is shipped.
        front: Names of the forms that no other one beats in everything.
        refused: Why a form breaks a limit, by its name.
        reason: Why this one, in words.
    """

    name: str
    front: tuple[str, ...]
    refused: Mapping[str, str]
    reason: str


def quality(row: ParityRow, tuned_score: float | None = None) -> float | None:
    """How good a form is: its score, or without one its share of the reference's tokens; None where not measured.

    Args:
        row: The form.
        tuned_score: The tuned model's score, above which a form is not better but lucky: rounding teaches nothing.
    """
    if row.score is None:
        return row.token_agreement
    return row.score if tuned_score is None else min(row.score, tuned_score)


GOALS: tuple[Goal, ...] = (
    quality,
    lambda row: None if row.divergence is None else -row.divergence,
    lambda row: -row.size_bytes,
    lambda row: row.tokens_per_second,
    lambda row: None if row.first_token_ms is None else -row.first_token_ms,
    lambda row: None if row.memory_bytes is None else -row.memory_bytes,
)
"""What a form can be better in; more is better."""


def pareto_front(rows: Sequence[ParityRow]) -> tuple[str, ...]:
    """Names of the rows that no other row is at least as good as in everything and better than in something."""
    return tuple(row.name for row in rows if not any(_beats(other, row) for other in rows))


def _beats(one: ParityRow, other: ParityRow) -> bool:
    """Whether one is nowhere worse than the other and somewhere better; goals that either lacks do not count."""
    pairs = [(goal(one), goal(other)) for goal in GOALS]
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    return all(first >= second for first, second in known) and any(first > second for first, second in known)


def choose(rows: Sequence[ParityRow], settings: OptimizationSection, *, tuned: ParityRow) -> Choice:
    """Pick the form that is shipped.

    Args:
        rows: The candidates, measured on this machine.
        settings: The recipe's `optimization` section with its limits.
        tuned: The tuned model's own row, which relative limits refer to.

    Raises:
        UserError: `limits-unmet` where no candidate keeps them all.
    """
    reasons = {row.name: _broken_limits(row, settings, tuned) for row in rows}
    refused = {name: "; ".join(broken) for name, broken in reasons.items() if broken}
    allowed = [row for row in rows if row.name not in refused]
    if not allowed:
        raise UserError(
            "limits-unmet",
            f"none of the {len(rows)} forms keeps every limit of the optimization section",
            hint="loosen the limit that the nearest form breaks, or tune a smaller base model",
            details=[f"{name}: {why}" for name, why in refused.items()],
        )
    qualities = {row.name: quality(row, tuned.score) or 0.0 for row in allowed}
    best = max(qualities.values())
    equal = [row for row in allowed if qualities[row.name] >= EQUAL_QUALITY * best]
    smallest = min(row.size_bytes for row in equal)
    small = [row for row in equal if row.size_bytes <= EQUAL_SIZE * smallest]
    chosen = min(small, key=lambda row: (_distance(row), row.size_bytes, -qualities[row.name]))
    reason = f"the smallest of {len(equal)} that lose at most 1 % of the best {_quality_name(chosen)} ({best:.1%})"
    if len(small) > 1:
        reason += f", and of {len(small)} about as small the nearest to the tuned model"
    if all(quality(row) is None for row in allowed):
        reason = f"the smallest of {len(equal)}, of which none was measured"
    limits = f", {len(refused)} of {len(rows)} break a limit" if refused else ""
    return Choice(chosen.name, pareto_front(rows), refused, f"{reason}{limits}")


def take_fastest(
    row: ParityRow, speeds: Sequence[Speed], settings: OptimizationSection, *, tuned: ParityRow
) -> ParityRow:
    """A form's row with the number of threads that makes it fastest, of those with which it keeps every limit.

    Args:
        row: The form as it was chosen, with the threads that the runtime takes by itself.
        speeds: The same form with other numbers of threads.
        settings: The limits.
        tuned: The tuned model's own row.
    """
    tried = [with_speed(row, speed) for speed in speeds]
    allowed = [each for each in tried if not _broken_limits(each, settings, tuned)]
    return max([row, *allowed], key=lambda each: each.tokens_per_second or 0.0)


def require_file_limits(row: ParityRow, settings: OptimizationSection, *, tuned: ParityRow) -> None:
    """Refuse a form without rivals, which another program runs, where it is too large or too bad.

    Args:
        row: The form; what was not measured breaks no limit.
        settings: The limits, of which those on time and memory are the other program's concern.
        tuned: The tuned model's own row.

    Raises:
        UserError: `limits-unmet`.
    """
    measured = None if row.score is None else settings.min_score
    limits = OptimizationSection(max_size=settings.max_size, min_score=measured)
    broken = _broken_limits(row, limits, tuned)
    if broken:
        raise UserError(
            "limits-unmet",
            f"{row.name}: {'; '.join(broken)}",
            hint="loosen the limit, set optimization.gguf to a smaller or a finer format, or remove it",
        )


def _distance(row: ParityRow) -> float:
    """How far a form's predictions are from the tuned model's; what was not measured is farthest."""
    return math.inf if row.divergence is None else row.divergence


def _quality_name(row: ParityRow) -> str:
    return "score" if row.score is not None else "agreement"


def _broken_limits(row: ParityRow, settings: OptimizationSection, tuned: ParityRow) -> list[str]:
    """What a form costs more, or brings less, than the recipe allows, in words."""
    most: list[tuple[str, float | None, float | None]] = [
        ("max_size", row.size_bytes, None if settings.max_size is None else size_bytes(settings.max_size)),
        ("max_memory", row.memory_bytes, None if settings.max_memory is None else size_bytes(settings.max_memory)),
        ("max_latency_ms", row.first_token_ms, settings.max_latency_ms),
        ("max_divergence", row.divergence, settings.max_divergence),
    ]
    least: list[tuple[str, float | None, float | None]] = [
        ("min_score", row.score, _score_bound(settings, tuned)),
        ("min_tokens_per_second", row.tokens_per_second, settings.min_tokens_per_second),
        ("min_agreement", row.identical / row.num_prompts if row.num_prompts else None, settings.min_agreement),
    ]
    if row.precision == "fp32":
        # These two bound rounded forms; of exact ones only ties may differ, and that is proved elsewhere.
        most, least = most[:-1], least[:-1]
    over = [(name, got, bound) for name, got, bound in most if bound is not None and (got is None or got > bound)]
    under = [(name, got, bound) for name, got, bound in least if bound is not None and (got is None or got < bound)]
    return [f"{name} is {bound:,.6g}, {_say(got)}" for name, got, bound in (*over, *under)]


def _say(got: float | None) -> str:
    return "which was not measured" if got is None else f"it has {got:,.6g}"


def _score_bound(settings: OptimizationSection, tuned: ParityRow) -> float | None:
    bound = settings.min_score
    if not isinstance(bound, str):
        return bound
    if tuned.score is None:
        raise UserError(
            "limits-unmet",
            f"optimization.min_score is {bound} of the tuned model's score, which was not measured",
            hint="add an evaluation section to the recipe, or bound min_agreement",
        )
    return relative_score(bound) * tuned.score
