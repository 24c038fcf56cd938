"""What the terminal and the page show of each arm: cells with a value, and notes below it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kivnun.decide.costs import amortised_dollars
from kivnun.decide.plots import Dot
from kivnun.decide.results import Arm, Strategies
from kivnun.decide.wording import say_dollars, say_milliseconds
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.wording import NBSP, say_duration, say_p_value, say_percent, say_points

NEEDED_PER_REQUEST = 1000
RETRIEVAL_FIRST = ("answerable", "recall", "ndcg", "mrr")


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: It.
        notes: What stands below, such as its interval, a line each.
    """

    value: str
    notes: tuple[str, ...] = ()


def quality(arm: Arm, metric: str) -> Estimate | None:
    """The main metric on the test rows."""
    return arm.metrics.get(metric) if arm.state == "measured" else None


def arm_cells(strategies: Strategies) -> dict[str, dict[str, Cell]]:
    """By measured arm, each column's cell; columns that no arm has anything for are left out."""
    measured = [arm for arm in strategies.arms if arm.state == "measured"]
    rows = {arm.name: {name: make(arm, strategies) for name, make in COLUMNS.items()} for arm in measured}
    used = [name for name in COLUMNS if any(cells[name] is not None for cells in rows.values())]
    return {arm: {name: cells[name] or Cell("–") for name in used} for arm, cells in rows.items()}


def arm_dots(strategies: Strategies) -> list[Dot]:
    """The measured arms for the pictures, those that can be chosen first."""
    dots: list[Dot] = []
    for arm in sorted(strategies.arms, key=lambda each: not each.is_selectable):
        score = quality(arm, strategies.metric)
        if score is not None:
            is_chosen = arm.name == strategies.decision.chosen
            dots.append(Dot(arm.name, score, is_chosen, not arm.is_selectable))
    return dots


def cost_axis(strategies: Strategies) -> tuple[str, Mapping[str, float], Callable[[float], str]]:
    """What the arms' costs can be compared in: its name, each arm's number, and how a number is said.

    Dollars where all have a price, else seconds of this machine, else the tokens of a request.
    """
    arms = [arm for arm in strategies.arms if arm.is_selectable and arm.cost is not None]
    costs = {arm.name: arm.cost for arm in arms if arm.cost is not None}
    dollars = {name: cost.dollars_per_1000 for name, cost in costs.items() if cost.dollars_per_1000 is not None}
    if len(dollars) == len(costs):
        return "dollars per 1,000 requests, without training", dollars, say_dollars
    seconds = {name: cost.seconds_per_1000 for name, cost in costs.items() if cost.seconds_per_1000 is not None}
    if len(seconds) == len(costs):
        return "seconds of this machine per 1,000 requests, without training", seconds, say_duration
    tokens = {name: cost.prompt_tokens + cost.completion_tokens for name, cost in costs.items()}
    return "tokens of a request (not every arm has a price)", tokens, lambda number: f"{number:,.0f}"


def baseline_of(strategies: Strategies) -> str | None:
    """The arm that the others' gains are measured against: the first one that can be chosen and has no gain itself."""
    return next((arm.name for arm in strategies.arms if arm.is_selectable and arm.difference is None), None)


def amortised_cell(arm: Arm, expected_requests: int) -> str:
    """Dollars per 1,000 requests with training paid off."""
    return say_dollars(amortised_dollars(arm.cost, expected_requests))


def say_load(strategies: Strategies) -> str:
    """How busy this machine was while latency was measured; "" where it was not measured."""
    loads = [arm.latency.load for arm in strategies.arms if arm.latency is not None]
    if not loads:
        return ""
    return f"Latency was measured at a load of {min(loads):.1f} to {max(loads):.1f} of this machine."


def _quality(arm: Arm, strategies: Strategies) -> Cell | None:
    score = quality(arm, strategies.metric)
    if score is None:
        return None
    notes = [f"{say_percent(score.low)} to {say_percent(score.high)}"]
    notes += [f"seeds {', '.join(map(say_percent, arm.seed_scores))}"] if len(arm.seed_scores) > 1 else []
    return Cell(say_percent(score.value), tuple(notes))


def _difference(arm: Arm, strategies: Strategies) -> Cell | None:
    if arm.difference is None:
        return None if arm.name != baseline_of(strategies) else Cell("baseline")
    notes = [f"{say_points(arm.difference.low)} to {say_points(arm.difference.high)}"]
    notes += [say_p_value(arm.p_value)] if arm.p_value is not None else []
    return Cell(say_points(arm.difference.value), tuple(notes))


def _tokens(arm: Arm, _strategies: Strategies) -> Cell | None:
    if arm.cost is None:
        return None
    cost = arm.cost
    notes = [f"p95 {cost.prompt_tokens_p95:,.0f}"]
    notes += [f"{cost.cached_share:.0%} kept ready"] if cost.cached_share else []
    notes += [f"{arm.truncated:,} cut to fit"] if arm.truncated else []
    return Cell(f"{cost.prompt_tokens:,.0f} + {cost.completion_tokens:,.0f}", tuple(notes))


def _cost(arm: Arm, _strategies: Strategies) -> Cell | None:
    if arm.cost is None:
        return None
    cost = arm.cost
    here = () if cost.seconds_per_1000 is None else (f"{say_duration(cost.seconds_per_1000)} here",)
    if cost.dollars_per_1000 is None:
        return Cell(here[0], ("no price",)) if here else Cell("unknown", ("no price",))
    return Cell(say_dollars(cost.dollars_per_1000), here)


def _latency(arm: Arm, _strategies: Strategies) -> Cell | None:
    if arm.latency is None:
        return None
    first = arm.latency.first_token_p50_ms
    notes = [f"p95 {say_milliseconds(arm.latency.p95_ms)}"]
    notes += [f"first token {say_milliseconds(first)}"] if first is not None else []
    return Cell(say_milliseconds(arm.latency.p50_ms), tuple(notes))


def _training(arm: Arm, _strategies: Strategies) -> Cell | None:
    if arm.cost is None or not arm.cost.training_minutes:
        return None
    priced = (say_dollars(arm.cost.training_dollars),) if arm.cost.training_dollars is not None else ()
    return Cell(say_duration(60 * arm.cost.training_minutes), priced)


def _break_even(arm: Arm, _strategies: Strategies) -> Cell | None:
    if arm.cost is None or not arm.cost.break_even_note:
        return None
    requests = arm.cost.break_even_requests
    return Cell("–" if requests is None else f"{requests:,}", (arm.cost.break_even_note,))


def _freshness(arm: Arm, _strategies: Strategies) -> Cell | None:
    fresh = arm.freshness
    if fresh is None:
        return None
    right = "–" if fresh.right_after is None else f"{fresh.right_after:.0%} right"
    notes = [f"{fresh.stale_after:.0%} stale"] if fresh.stale_after is not None else []
    notes += [f"after {say_duration(fresh.seconds)}"] if fresh.seconds is not None else []
    return Cell(right, tuple(notes) or (fresh.note,))


def _citations(arm: Arm, _strategies: Strategies) -> Cell | None:
    return None if arm.citations is None else Cell(say_percent(arm.citations), ("lexical support",))


def _retrieval(arm: Arm, _strategies: Strategies) -> Cell | None:
    if not arm.retrieval:
        return None
    place = {name: number for number, name in enumerate(RETRIEVAL_FIRST)}
    first = sorted(arm.retrieval, key=lambda name: place.get(name.split("_")[0].split("@")[0], len(place)))
    said = [f"{name.replace('_at_', '@').replace('_', ' ')} {arm.retrieval[name]:.2f}" for name in first]
    return Cell(said[0].replace(" ", NBSP), tuple(each.replace(" ", NBSP) for each in said[1:]))


COLUMNS: Mapping[str, Callable[[Arm, Strategies], Cell | None]] = {
    "quality": _quality,
    "gain": _difference,
    "tokens in + out": _tokens,
    "per 1,000": _cost,
    "latency": _latency,
    "training": _training,
    "break-even": _break_even,
    "after a change": _freshness,
    "citations": _citations,
    "retrieval": _retrieval,
}
"""What is shown of every arm, in this order."""
