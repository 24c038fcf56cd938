"""The pilot: arms are tried on validation rows, and one that cannot be worth its cost never sees the test rows.

Pruning errs on the side of measuring. An arm goes only where its best case is below `decide.min_gain`: the upper bound
of its gain over the best cheaper arm (`verdict.gain_over`, which counts one win and one loss more than there were).
"""

import statistics
from collections.abc import Mapping, Sequence

from kivnun.asking.request import AskedModel
from kivnun.decide.arms import PlannedArm, is_endpoint
from kivnun.decide.context import Context
from kivnun.decide.costs import expected_dollars
from kivnun.decide.measure import Answered, Write, answer_rows, variants_of, writer_of
from kivnun.decide.rows import DecideRow
from kivnun.decide.state import Measured
from kivnun.decide.verdict import gain_over
from kivnun.prices import find_price

MIN_PILOT_ROWS = 30
"""With fewer rows nothing is pruned."""
BYTES_PER_TOKEN = 2
"""Few of them, so that what a prompt will cost is not underestimated; a Hebrew letter, of two bytes, may be a token."""
SPEED_ROWS = 2


def try_variants(
    context: Context, planned: PlannedArm, model: AskedModel
) -> tuple[dict[str, int], Write, Answered | None]:
    """Try every setting of an arm on the pilot rows; the best one, of equal ones the cheapest, with what it did.

    Without pilot rows the first setting is taken, untried.
    """
    variants = variants_of(planned, context)
    if not context.pilot:
        return variants[0], writer_of(planned, context, model, variants[0]), None
    tried: list[tuple[dict[str, int], Write, Answered]] = []
    for settings in variants:
        write = writer_of(planned, context, model, settings)
        purpose = f"{planned.name} {say_settings(settings)} on the pilot rows"
        tried.append((settings, write, answer_rows(context, model, context.pilot, write, purpose=purpose)))
    # max() keeps the first of equal ones, which is the cheapest.
    return max(tried, key=lambda each: statistics.fmean(each[2].scores))


def say_settings(settings: Mapping[str, int]) -> str:
    """Settings in a few words."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def why_prune(context: Context, scores: Sequence[float], cheaper: Sequence[Measured]) -> str:
    """Why an arm cannot be worth its cost, with the figures; "" where it may be.

    Args:
        context: The comparison.
        scores: What it scored on the pilot rows.
        cheaper: Cheaper arms that were measured.
    """
    rivals = [other for other in cheaper if len(other.pilot_scores) == len(scores)]
    if not rivals or len(scores) < MIN_PILOT_ROWS:
        return ""
    best = max(rivals, key=lambda other: statistics.fmean(other.pilot_scores))
    gain = gain_over(scores, best.pilot_scores)
    if gain.high >= context.settings.min_gain:
        return ""
    return (
        f"on {len(scores)} validation rows it scores {statistics.fmean(scores):.3f} and {best.arm.name} "
        f"{statistics.fmean(best.pilot_scores):.3f}: its gain is at most {gain.high:+.3f}, below decide.min_gain = "
        f"{context.settings.min_gain:g}"
    )


def why_prune_retrieval(
    context: Context, rows: Sequence[DecideRow], oracle: Sequence[float], closed: Sequence[float]
) -> str:
    """Why no passage can help a model, with the figures; "" where one may.

    Args:
        context: The comparison.
        rows: The pilot rows.
        oracle: Scores with the right passage.
        closed: Scores without any.
    """
    passages = context.passages
    if passages is None or len(oracle) != len(rows) or len(closed) != len(rows):
        return ""
    known = [number for number, row in enumerate(rows) if passages.gold(row) is not None]
    if len(known) < MIN_PILOT_ROWS:
        return ""
    gain = gain_over([oracle[number] for number in known], [closed[number] for number in known])
    if gain.high >= context.settings.min_gain:
        return ""
    return (
        f"even the right passage gains at most {gain.high:+.3f} on {len(known)} validation rows, below decide.min_gain "
        f"= {context.settings.min_gain:g}: this model makes no use of passages"
    )


def say_pilot(context: Context) -> str:
    """Why nothing was pruned, where there were too few rows to say; "" where there were enough."""
    if not context.pilot:
        return "there are no validation rows: nothing was tried beforehand, and nothing pruned"
    if len(context.pilot) < MIN_PILOT_ROWS:
        return f"nothing was pruned: {len(context.pilot)} pilot rows are too few for that (below {MIN_PILOT_ROWS})"
    return ""


def why_over_budget(
    context: Context, planned: PlannedArm, model: AskedModel, write: Write, rows: Sequence[DecideRow], *, times: int
) -> str:
    """Why asking some rows does not fit the budget, with the figures; "" where it does.

    Args:
        context: The comparison.
        planned: The arm.
        model: Who is asked.
        write: How it is asked.
        rows: The rows.
        times: How many requests that is for each row.
    """
    budget, requests = context.budget, times * len(rows) + context.settings.timed_requests
    if not rows or (budget.minutes is None and budget.dollars is None):
        return ""
    seconds = 0.0 if is_endpoint(planned.spec) or budget.minutes is None else requests * _speed(context, model, write)
    dollars = 0.0
    if budget.dollars is not None and model.price is not None:
        if find_price(context.pricing.table, model.price) is None:
            return f"decide.budget_dollars cannot be kept: the price table has no {model.price}"
        shown = [each.request for each in map(write, rows) if each.request is not None]
        num_bytes = sum(len(text.encode()) for request in shown for _, text in request.messages)
        dollars = expected_dollars(
            context.pricing,
            model.price,
            requests=requests,
            prompt_tokens=num_bytes / BYTES_PER_TOKEN / max(len(shown), 1),
            answer_tokens=context.evaluation.max_new_tokens,
        )
    return budget.why_not(seconds=seconds, dollars=dollars)


def _speed(context: Context, model: AskedModel, write: Write) -> float:
    """Seconds of a request that is asked alone; several at once are faster, so this is a bound."""
    rows = (context.pilot or context.rows["train"])[:SPEED_ROWS]
    requests = [each.request for each in map(write, rows) if each.request is not None]
    if not requests:
        return 0.0
    with context.budget.timed():
        replies = [model.time(request, max_new_tokens=context.evaluation.max_new_tokens) for request in requests]
    return statistics.fmean(reply.seconds or 0.0 for reply in replies)
