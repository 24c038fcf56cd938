"""Which arm to take: start at the cheapest, and go up only for a gain that is large enough and shown.

The rule was chosen by simulation (bench/decide_rule.py): taking the best mean pays for nothing where arms are equal,
and asking for proof that a cheap arm is no worse never comes to an end at a few hundred rows. This rule stays cheap,
and says when the rows cannot settle it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kivnun.decide import wording
from kivnun.decide.costs import amortised_dollars
from kivnun.decide.results import Arm, Decision
from kivnun.decide.wording import Gain
from kivnun.evaluation.wording import say_metric_name
from kivnun.recipe.decide import ARMS, DecideSection

Z = 2.24
"""Standard errors of a bound: 97.5 % two-sided, since several arms are looked at one after the other."""
Z_POWER = 0.84
"""Standard errors more, so that rows that are needed settle it in four of five cases."""


@dataclass(frozen=True)
class _Choice:
    """Where the rule ended.

    Attributes:
        chosen: The arm to take.
        instead_of: The arm that it replaced; None where it is the cheapest.
        gains: Of every other arm that keeps the limits, its gain over the chosen one.
        open_arms: Names of those that may still be more than `max_regret` better than the chosen one.
    """

    chosen: Arm
    instead_of: Arm | None
    gains: Mapping[str, Gain]
    open_arms: tuple[str, ...]


def decide_between(arms: Sequence[Arm], settings: DecideSection, *, metric: str = "score") -> Decision:
    """Choose among measured arms, or say how many rows are missing.

    Args:
        arms: All of them, with those that were not run and the diagnostics, which cannot be chosen.
        settings: Limits, gains, and requests over which training is paid off.
        metric: The task's main metric, for the sentences.
    """
    ordered, order_note = order_by_cost([arm for arm in arms if arm.is_selectable], settings)
    broken = {arm.name: limits for arm in ordered if (limits := broken_limits(arm, settings))}
    keeping = [arm for arm in ordered if arm.name not in broken]
    reasons = {name: f"breaks a limit: {'; '.join(limits)}" for name, limits in broken.items()}
    unmeasured = {arm.name: f"not considered: {arm.reason}" for arm in arms if arm.state != "measured"}
    order = tuple(arm.name for arm in ordered)
    if not keeping:
        sentence = wording.say_nothing_keeps(ordered, broken)
        return Decision(
            chosen="",
            is_decided=False,
            sentence=sentence,
            rows_needed=None,
            reasons={**reasons, **unmeasured},
            order=order,
            order_note=order_note,
        )
    choice = _escalate(keeping, settings)
    place = order.index(choice.chosen.name)
    for name, gain in choice.gains.items():
        is_open = name in choice.open_arms
        words = wording.say_rejected(choice.chosen.name, gain, settings, is_dearer=order.index(name) > place)
        reasons[name] = f"{words}; not ruled out" if is_open else words
    needed = _rows_for_all(choice, settings)
    by_cost = {name: reasons[name] for name in order if name in reasons}
    return Decision(
        chosen=choice.chosen.name,
        is_decided=not choice.open_arms,
        sentence=_sentence(choice, keeping, settings, needed, say_metric_name(metric))
        + wording.say_unmeasured([arm for arm in arms if arm.state != "measured" and arm.strategy in settings.arms]),
        rows_needed=needed,
        reasons={**by_cost, **unmeasured},
        order=order,
        order_note=order_note,
    )


def order_by_cost(arms: Sequence[Arm], settings: DecideSection) -> tuple[list[Arm], str]:
    """The arms, the cheapest first, and by what they were ordered.

    Dollars with training paid off where all have a price; else the fixed order of the ways, since seconds of one
    machine and dollars of another cannot be compared.
    """
    dollars = {arm.name: amortised_dollars(arm.cost, settings.expected_requests) for arm in arms}
    positions = {name: number for number, name in enumerate(ARMS)}
    by_way = sorted(arms, key=lambda arm: (positions.get(arm.strategy, len(ARMS)), ":" in arm.name))
    unpriced = [arm.name for arm in by_way if dollars[arm.name] is None]
    if unpriced:
        return by_way, wording.say_fixed_order(unpriced)
    # sorted() is stable: of two that cost the same, the simpler way comes first.
    return sorted(by_way, key=lambda arm: dollars[arm.name] or 0.0), wording.say_dollar_order(settings)


def gain_over(candidate: Sequence[float], baseline: Sequence[float]) -> Gain:
    """The paired gain with its bounds, on scores from 0 to 1.

    One row won and one lost are added before the bounds are taken, so that ten rows without any difference do not count
    as proof that there is none; at 200 rows that changes the bounds by a few hundredths.

    Raises:
        ValueError: Where the two do not have the same rows.

    Reference:
        Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data", for scores of 0 and 1.
    """
    differences = [new - old for new, old in zip(candidate, baseline, strict=True)]
    rows = len(differences)
    centre = sum(differences) / (rows + 2)
    variance = (math.fsum(each * each for each in differences) + 2) / (rows + 2) - centre * centre
    reach = Z * math.sqrt(variance / (rows + 2))
    return Gain(sum(differences) / max(rows, 1), _clip(centre - reach), _clip(centre + reach), math.sqrt(variance))


def rows_to_settle(gain: Gain, settings: DecideSection) -> int | None:
    """Rows with which the rule would likely take this arm, or rule it out, if the observed gain is the true one.

    Args:
        gain: The gain over the chosen arm as observed.
        settings: What gain is worth taking, and which must be ruled out.

    Returns:
        The smaller of both numbers; None where neither can come about.
    """
    distances = [settings.max_regret - gain.value]
    distances += [gain.value] if gain.value >= settings.min_gain else []
    needed = [((Z + Z_POWER) * gain.spread / distance) ** 2 for distance in distances if distance > 0]
    return math.ceil(min(needed)) if needed else None


def broken_limits(arm: Arm, settings: DecideSection) -> list[str]:
    """Each hard limit that an arm does not keep, or that nobody can say it keeps, with the number."""
    broken: list[str] = []
    if settings.max_latency_ms is not None:
        measured = None if arm.latency is None else arm.latency.p95_ms
        broken += wording.say_broken("p95 latency", measured, settings.max_latency_ms, "ms")
    if settings.max_dollars_per_1000 is not None:
        dollars = amortised_dollars(arm.cost, settings.expected_requests)
        broken += wording.say_broken("cost per 1,000 requests", dollars, settings.max_dollars_per_1000, "$")
    if settings.max_stale_minutes is not None:
        seconds = None if arm.freshness is None else arm.freshness.seconds
        minutes = None if seconds is None else seconds / 60
        said = wording.say_broken("time to answers from a changed document", minutes, settings.max_stale_minutes, "min")
        note = arm.freshness.note if said and arm.freshness is not None and seconds is None else ""
        broken += [f"{line} ({note})" if note else line for line in said]
    return broken


def _escalate(arms: Sequence[Arm], settings: DecideSection) -> _Choice:
    """Walk up the arms by cost."""
    chosen, instead_of = arms[0], None
    for arm in arms[1:]:
        gain = gain_over(arm.scores, chosen.scores)
        if gain.value >= settings.min_gain and gain.low > 0:
            chosen, instead_of = arm, chosen
    gains = {arm.name: gain_over(arm.scores, chosen.scores) for arm in arms if arm.name != chosen.name}
    open_arms = tuple(name for name, gain in gains.items() if gain.high > settings.max_regret)
    return _Choice(chosen, instead_of, gains, open_arms)


def _rows_for_all(choice: _Choice, settings: DecideSection) -> int | None:
    """Rows that settle every open arm; None where nothing is open, or no number of rows would."""
    needed = [rows_to_settle(choice.gains[name], settings) for name in choice.open_arms]
    known = [number for number in needed if number is not None]
    if not needed or len(known) < len(needed):
        return None
    return max(len(choice.chosen.scores) + 1, *known)


def _sentence(choice: _Choice, keeping: Sequence[Arm], settings: DecideSection, needed: int | None, metric: str) -> str:
    """The verdict in words."""
    if not any(any(arm.scores) for arm in keeping):
        return wording.say_nothing_right(choice.chosen, metric)
    if choice.open_arms:
        widest = max(choice.open_arms, key=lambda name: choice.gains[name].high)
        return wording.say_undecided(choice.chosen, widest, choice.gains[widest], needed, metric)
    if choice.instead_of is not None:
        gain = gain_over(choice.chosen.scores, choice.instead_of.scores)
        return wording.say_taken(choice.chosen, choice.instead_of, gain, settings, metric)
    return wording.say_cheapest(choice.chosen, len(keeping) - 1, settings, metric)


def _clip(bound: float) -> float:
    """A bound of a difference of scores from 0 to 1, which is never beyond 1."""
    return min(max(bound, -1.0), 1.0)
