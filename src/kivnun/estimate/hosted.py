"""What a hosted service would bill for training on the rows, from a dated price table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson

from kivnun.data.conversation import Conversation, Message
from kivnun.prices import ModelPrice, PriceTable

# OpenAI's count: a chat row costs 3 tokens, each of its messages 3, and a name 1 more.
TOKENS_PER_ROW, TOKENS_PER_MESSAGE, TOKENS_PER_NAME = 3, 3, 1
BATCH_ROWS = 1000

CountTokens = Callable[[Sequence[str]], list[int]]
"""Tokens of each of some texts."""


@dataclass(frozen=True)
class HostedPrice:
    """One model's bill.

    Attributes:
        service: The service.
        model: The model.
        billed_tokens: Tokens of all epochs, rows cut at the service's limit.
        num_cut: Rows longer than that limit, whose ends would not be learnt.
        dollars: The bill of the training.
        input_price: Dollars for 1,000,000 tokens that the tuned model reads.
        output_price: Dollars for 1,000,000 tokens that it writes.
    """

    service: str
    model: str
    billed_tokens: int
    num_cut: int
    dollars: float
    input_price: float
    output_price: float


def count_hosted_tokens(conversations: Iterable[Conversation], count: CountTokens) -> list[int]:
    """Tokens of each row as OpenAI counts a chat row, with whatever tokenizer `count` uses."""
    totals: list[int] = []
    rows = list(conversations)
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        texts = [[*(text for message in row.messages for text in _texts(message)), *_declared(row)] for row in batch]
        counts = iter(count([text for row in texts for text in row]))
        for row, parts in zip(batch, texts, strict=True):
            names = sum(bool(message.name) for message in row.messages)
            overhead = TOKENS_PER_ROW + TOKENS_PER_MESSAGE * len(row.messages) + TOKENS_PER_NAME * names
            totals.append(overhead + sum(next(counts) for _ in parts))
    return totals


def price_training(row_tokens: Sequence[int], epochs: float, prices: PriceTable) -> list[HostedPrice]:
    """The bill of every tunable model of a price table: price x tokens x epochs; validation rows are free."""
    return [
        _price(service.service, model, row_tokens, epochs, (model.training, model.max_tokens_per_row))
        for service in prices.services
        for model in service.models
        if model.training is not None and model.max_tokens_per_row is not None
    ]


def _price(
    service: str, price: ModelPrice, row_tokens: Sequence[int], epochs: float, tuning: tuple[float, int]
) -> HostedPrice:
    dollars, limit = tuning
    billed = round(sum(min(tokens, limit) for tokens in row_tokens) * epochs)
    return HostedPrice(
        service=service,
        model=price.model,
        billed_tokens=billed,
        num_cut=sum(tokens > limit for tokens in row_tokens),
        dollars=billed * dollars / 1e6,
        input_price=price.input,
        output_price=price.output,
    )


def _declared(row: Conversation) -> list[str]:
    """The declared tools as JSON: an upper bound, since services write them in a shorter form of their own."""
    return [orjson.dumps(row.tools).decode()] if row.tools else []


def _texts(message: Message) -> list[str]:
    calls = [text for call in message.tool_calls for text in (call.name, call.arguments)]
    return [text for text in (message.role, message.content, message.name, *calls) if text]
