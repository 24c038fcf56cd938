"""What an arm costs: tokens by the price table, seconds of this machine, and training paid off over many requests."""

import datetime
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kivnun.asking.request import Reply
from kivnun.decide.results import Arm, Cost
from kivnun.decide.wording import say_plain_points
from kivnun.prices import AnswerPrice, PriceTable, find_price, load_prices
from kivnun.recipe.decide import ARMS, DecideSection

PER_MILLION = 1e-6


@dataclass(frozen=True)
class Pricing:
    """What things cost.

    Attributes:
        table: Prices of services.
        path: Where the table was read.
        machine_dollars_per_hour: Price of this machine; None where nobody has said.
        expected_requests: Requests over which training is paid off.
        min_gain: Score that two arms may differ by and count as equally good.
    """

    table: PriceTable
    path: Path
    machine_dollars_per_hour: float | None
    expected_requests: int
    min_gain: float


def pricing_of(settings: DecideSection, path: Path | None = None) -> Pricing:
    """The prices of a comparison.

    Raises:
        UserError: `prices-invalid`.
    """
    table, where = load_prices(path)
    return Pricing(table, where, settings.machine_dollars_per_hour, settings.expected_requests, settings.min_gain)


def cost_of(
    replies: Sequence[Reply],
    pricing: Pricing,
    *,
    price: str | None,
    seconds_per_1000: float | None = None,
    training_minutes: float = 0.0,
) -> Cost:
    """Tokens and money of one arm.

    Args:
        replies: Answers to the test rows, with the tokens that were counted.
        pricing: What things cost.
        price: `AskedModel.price`: the model's name in the table; None for a model of this machine.
        seconds_per_1000: Seconds of this machine for 1,000 requests; None for an endpoint.
        training_minutes: Minutes of training on this machine.
    """
    read = [reply.prompt_tokens for reply in replies]
    hourly = pricing.machine_dollars_per_hour
    if price is None:
        dollars = None if hourly is None or seconds_per_1000 is None else hourly * seconds_per_1000 / 3600
    else:
        found = find_price(pricing.table, price)
        dollars = None if found is None else 1000 * statistics.fmean(dollars_of(reply, found) for reply in replies)
    training = 0.0 if training_minutes == 0 else None if hourly is None else hourly * training_minutes / 60
    return Cost(
        prompt_tokens=statistics.median(read),
        prompt_tokens_p95=float(np.percentile(read, 95)),
        completion_tokens=statistics.median(reply.completion_tokens for reply in replies),
        cached_share=sum(reply.cached_tokens for reply in replies) / max(sum(read), 1),
        dollars_per_1000=dollars,
        seconds_per_1000=seconds_per_1000,
        training_minutes=training_minutes,
        training_dollars=training,
    )


def dollars_of(reply: Reply, price: AnswerPrice) -> float:
    """What a service bills for one answer."""
    plain = reply.prompt_tokens - reply.cached_tokens - reply.written_tokens
    return PER_MILLION * (
        plain * price.input
        + reply.cached_tokens * price.cached_input
        + reply.written_tokens * price.cache_write
        + reply.completion_tokens * price.output
    )


def expected_dollars(
    pricing: Pricing, price: str, *, requests: int, prompt_tokens: float, answer_tokens: float
) -> float:
    """Most that requests to a service will cost, before any is sent; 0 where the table does not have the model.

    Args:
        pricing: What things cost.
        price: The model's name in the table.
        requests: How many.
        prompt_tokens: Tokens that each reads, none of them kept ready.
        answer_tokens: Most tokens of an answer.
    """
    found = find_price(pricing.table, price)
    if found is None:
        return 0.0
    # Writing a cache is dearer than reading without one, so the dearer of both is the bound.
    dearest = max(found.input, found.cache_write)
    return requests * PER_MILLION * (prompt_tokens * dearest + answer_tokens * found.output)


def amortised_dollars(cost: Cost | None, expected_requests: int) -> float | None:
    """Dollars for 1,000 requests with training paid off over the expected ones; None where a price is missing."""
    if cost is None or cost.dollars_per_1000 is None or cost.training_dollars is None:
        return None
    return cost.dollars_per_1000 + 1000 * cost.training_dollars / expected_requests


def with_break_even(arms: Sequence[Arm], pricing: Pricing) -> tuple[Arm, ...]:
    """The arms, each trained one with the volume from which on its training pays off."""
    untrained = [arm for arm in arms if arm.is_selectable and arm.cost is not None and not arm.cost.training_minutes]
    return tuple(_with_break_even(arm, untrained, pricing.min_gain) for arm in arms)


def price_notes(models: Sequence[str], pricing: Pricing, today: datetime.date | None = None) -> tuple[str, ...]:
    """What a reader must know of the prices: their day and source, those that are old, and models without any.

    Args:
        models: `AskedModel.price` of every model at a service.
        pricing: What things cost.
        today: The day; now if not given.
    """
    day = today or datetime.datetime.now(tz=datetime.UTC).date()
    notes: list[str] = []
    for name in dict.fromkeys(models):
        found = find_price(pricing.table, name)
        if found is None:
            notes.append(
                f"no price for {name} in {pricing.path}: its dollars are unknown "
                "(`kivnun estimate --write-prices prices.yaml` writes the table, to be extended)"
            )
            continue
        age = ", more than half a year old: compare it with the page" if found.is_old(day) else ""
        said = f"; {found.note}" if found.note else ""
        notes.append(f"price of {name}: list price of {found.as_of} from {found.source}{age}{said}")
    if pricing.machine_dollars_per_hour is None:
        notes.append(
            "this machine has no price (decide.machine_dollars_per_hour), so that what runs here is stated in seconds"
        )
    else:
        notes.append(f"this machine counts ${pricing.machine_dollars_per_hour:g} an hour, one request after the other")
    return tuple(notes)


def _with_break_even(arm: Arm, untrained: Sequence[Arm], min_gain: float) -> Arm:
    if not arm.is_selectable or arm.cost is None or not arm.cost.training_minutes:
        return arm
    requests, note = _break_even(arm, arm.cost, untrained, min_gain)
    return replace(arm, cost=replace(arm.cost, break_even_requests=requests, break_even_note=note))


def _break_even(arm: Arm, cost: Cost, untrained: Sequence[Arm], min_gain: float) -> tuple[int | None, str]:
    """From which request on an arm is cheaper, or why that cannot be said."""
    bar = statistics.fmean(arm.scores) - min_gain
    as_good = [other for other in untrained if statistics.fmean(other.scores) >= bar]
    if not as_good:
        return None, f"no arm without training comes within {say_plain_points(min_gain)} of it"
    priced = [(other, pair) for other in as_good if (pair := _saving(cost, other.cost)) is not None]
    if len(priced) < len(as_good):
        names = ", ".join(other.name for other in as_good)
        return None, f"cannot be computed without prices of this machine and of {names}"
    other, (training, saving) = min(priced, key=_dearness)
    if saving <= 0:
        return None, f"never: a request costs no less than with {other.name}, which is as good"
    requests = math.ceil(1000 * training / saving)
    return requests, f"from {requests:,} requests on cheaper than {other.name}, which is as good"


def _dearness(priced: tuple[Arm, tuple[float, float]]) -> tuple[float, int]:
    """What an arm costs more than the trained one; the simpler way first of two that cost the same."""
    other, (_, saving) = priced
    return saving, ARMS.index(other.strategy) if other.strategy in ARMS else len(ARMS)


def _saving(trained: Cost, other: Cost | None) -> tuple[float, float] | None:
    """Cost of the training, and what it saves on 1,000 requests: both in dollars, or in seconds of this machine."""
    if other is None:
        return None
    if None not in (trained.dollars_per_1000, trained.training_dollars, other.dollars_per_1000):
        return trained.training_dollars or 0.0, (other.dollars_per_1000 or 0.0) - (trained.dollars_per_1000 or 0.0)
    if trained.seconds_per_1000 is not None and other.seconds_per_1000 is not None:
        return trained.training_minutes * 60, other.seconds_per_1000 - trained.seconds_per_1000
    return None
