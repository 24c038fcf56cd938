"""Verdicts, money, times and gains in words, the same on the terminal and in the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kivnun.decide.results import Arm
from kivnun.evaluation.wording import MINUS, NBSP, say_percent, say_points
from kivnun.recipe.decide import DecideSection

SMALLEST_DOLLARS = 0.0001


@dataclass(frozen=True)
class Gain:
    """One arm's scores against another's on the same rows.

    Attributes:
        value: Mean difference.
        low: Its lower bound.
        high: Its upper bound.
        spread: Standard deviation of one row's difference.
    """

    value: float
    low: float
    high: float
    spread: float


def say_taken(chosen: Arm, instead_of: Arm, gain: Gain, settings: DecideSection, metric: str) -> str:
    """The verdict where a dearer arm is worth it."""
    most = say_plain_points(settings.max_regret)
    return (
        f"Take {chosen.name}: {metric} {say_mean(chosen)} against {say_mean(instead_of)} of {instead_of.name}, "
        f"{say_gain(gain)} on {len(chosen.scores):,} rows. That another arm is more than {most} better is ruled out."
    )


def say_cheapest(chosen: Arm, num_others: int, settings: DecideSection, metric: str) -> str:
    """The verdict where the cheapest arm is as good as any."""
    score = f"{metric} {say_mean(chosen)} on {len(chosen.scores):,} rows"
    if not num_others:
        return f"Take {chosen.name}, the only arm that was measured and keeps the limits: {score}."
    least, most = say_plain_points(settings.min_gain), say_plain_points(settings.max_regret)
    which = "the cheapest that keeps the limits" if has_limits(settings) else "the cheapest"
    return (
        f"Take {chosen.name}, {which}: {score}. No dearer arm is shown to be {least} better, and more than {most} "
        "is ruled out."
    )


def has_limits(settings: DecideSection) -> bool:
    """Whether a recipe has limits that keep an arm from being chosen."""
    return (settings.max_latency_ms, settings.max_dollars_per_1000, settings.max_stale_minutes) != (None, None, None)


def say_unmeasured(arms: Sequence[Arm]) -> str:
    """What was asked for and is no part of a verdict; "" where that is nothing."""
    if not arms:
        return ""
    return (
        f" Not measured on these rows, so that nothing is ruled out of: {', '.join(_say_state(arm) for arm in arms)}."
    )


def _say_state(arm: Arm) -> str:
    return f"{arm.name} (pruned)" if arm.state == "pruned" else arm.name


def say_undecided(chosen: Arm, other: str, gain: Gain, needed: int | None, metric: str) -> str:
    """The verdict where the rows cannot tell."""
    rows = len(chosen.scores)
    opening = (
        f"Undecided: {other} may be up to {say_plain_points(gain.high)} better than {chosen.name} "
        f"({metric} {say_mean(chosen)}; observed {say_gain(gain)}, {rows:,} rows)."
    )
    if needed is None:
        return f"{opening} {chosen.name} is the cheapest defensible choice."
    return (
        f"{opening} About {needed - rows:,} more test rows ({needed:,} in all) would settle it; until then "
        f"{chosen.name} is the cheapest defensible choice."
    )


def say_nothing_right(chosen: Arm, metric: str) -> str:
    """The verdict where every arm fails on every row."""
    return (
        f"No arm gets anything right ({metric} 0{NBSP}% on {len(chosen.scores):,} rows each): {chosen.name} is the "
        "cheapest, and none is worth taking before you have read the answers."
    )


def say_nothing_keeps(measured: Sequence[Arm], broken: Mapping[str, Sequence[str]]) -> str:
    """The verdict where there is nothing to choose from."""
    if not measured:
        return "No verdict: no arm that could be chosen was measured."
    lines = "; ".join(f"{name}: {', '.join(limits)}" for name, limits in broken.items())
    return f"No verdict: no measured arm keeps the limits of the recipe ({lines})."


def say_rejected(chosen: str, gain: Gain, settings: DecideSection, *, is_dearer: bool) -> str:
    """Why an arm was not taken, with its number against the one that was."""
    words = f"{say_gain(gain)} against {chosen}"
    if not is_dearer:
        return f"cheaper, and worse: {words}" if gain.high < 0 else f"cheaper: {words}"
    if gain.high < 0:
        return f"dearer, and worse: {words}"
    if gain.value < settings.min_gain:
        return f"dearer, and gains less than {say_plain_points(settings.min_gain)}: {words}"
    return f"dearer, and its gain is not shown: {words}"


def say_broken(what: str, value: float | None, limit: float, unit: str) -> list[str]:
    """A limit that is not kept, or that nobody can say is kept; nothing where it is."""
    if value is None:
        return [f"{what} is not known, and the limit is {_with_unit(limit, unit)}"]
    return [f"{what} {_with_unit(value, unit)}, the limit is {_with_unit(limit, unit)}"] if value > limit else []


def say_dollar_order(settings: DecideSection) -> str:
    """By what the arms were ordered where all have a price."""
    return f"by dollars per 1,000 requests, training paid off over {settings.expected_requests:,} requests"


def say_fixed_order(unpriced: Sequence[str]) -> str:
    """By what the arms were ordered where some have no price."""
    return (
        f"by the fixed order of the ways, simplest first, since no dollars are known for {', '.join(unpriced)} "
        "(decide.machine_dollars_per_hour gives this machine a price, the price table a service)"
    )


def say_mean(arm: Arm) -> str:
    """Mean score of an arm."""
    return say_percent(sum(arm.scores) / max(len(arm.scores), 1))


def say_gain(gain: Gain) -> str:
    """A gain with its bounds, in points."""
    return f"{say_points(gain.value)} points ({say_points(gain.low)} to {say_points(gain.high)})"


def say_plain_points(share: float) -> str:
    """A share as points, without a sign."""
    return f"{100 * share:.3g}{NBSP}points"


def say_dollars(dollars: float | None) -> str:
    """Dollars with as many decimals as they need."""
    if dollars is None:
        return "unknown"
    if 0 < dollars < SMALLEST_DOLLARS:
        return f"<{NBSP}${SMALLEST_DOLLARS}"
    if dollars >= 100:
        return f"${dollars:,.0f}"
    return f"${dollars:.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.2g}"


def say_milliseconds(milliseconds: float) -> str:
    """A latency."""
    return f"{milliseconds:,.0f}{NBSP}ms" if milliseconds < 10_000 else f"{milliseconds / 1000:,.1f}{NBSP}s"


def say_signed(value: float) -> str:
    """A number with two decimals and a sign that is no hyphen."""
    return f"{MINUS if value < 0 else '+'}{abs(value):.2f}"


def _with_unit(value: float, unit: str) -> str:
    return say_dollars(value) if unit == "$" else f"{value:,.4g}{NBSP}{unit}"


def say_score(score: float) -> str:
    """A row's score where it is neither right nor wrong."""
    return f"{100 * score:.0f}{NBSP}%"
