"""What an evaluation through a service costs, by the price table."""

from collections.abc import Sequence
from dataclasses import replace

from kivnun.asking.request import AskedModel, Request
from kivnun.assessment.folder import Usage
from kivnun.prices import find_price, load_prices

BYTES_PER_TOKEN = 4
"""A rule of thumb that holds for English and, since its letters have two bytes, about for Hebrew."""


def add_price(usage: Usage, model: AskedModel) -> Usage:
    """The same with its price.

    Args:
        usage: What the answers took.
        model: Who was asked.

    Raises:
        UserError: `prices-invalid`.
    """
    return usage if model.price is None else price_usage(usage, model.price)


def price_usage(usage: Usage, name: str) -> Usage:
    """The same with the price of a model.

    Args:
        usage: What the answers took.
        name: Of the model in the price table.

    Raises:
        UserError: `prices-invalid`.
    """
    table, path = load_prices()
    price = find_price(table, name)
    if price is None:
        return replace(usage, price_note=f"{path} has no price of {name}")
    plain = usage.prompt_tokens - usage.cached_tokens - usage.written_tokens
    dollars = (
        plain * price.input
        + usage.cached_tokens * price.cached_input
        + usage.written_tokens * price.cache_write
        + usage.completion_tokens * price.output
    ) / 1e6
    return replace(usage, dollars=dollars, price_note=f"prices of {price.as_of}, {price.source}")


def expect_usage(requests: Sequence[Request], max_new_tokens: int) -> Usage:
    """What requests will take at most, before any is made: read tokens by a rule of thumb, answers at their longest.

    Args:
        requests: What will be asked.
        max_new_tokens: Longest answer.
    """
    size = sum(len(text.encode()) for request in requests for _, text in request.messages)
    return Usage(prompt_tokens=size // BYTES_PER_TOKEN, completion_tokens=max_new_tokens * len(requests))
