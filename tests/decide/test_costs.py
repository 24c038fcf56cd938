"""Costs: tokens at a service's prices, seconds of this machine, training paid off, and from when it pays."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from kivnun.asking.request import Reply
from kivnun.decide.costs import (
    Pricing,
    amortised_dollars,
    cost_of,
    expected_dollars,
    price_notes,
    pricing_of,
    with_break_even,
)
from kivnun.decide.results import Arm, Cost
from kivnun.prices import SHIPPED, find_price, load_prices
from kivnun.recipe.decide import DecideSection

TABLE = """\
as_of: 2026-01-01
currency: USD
services:
  - service: here
    source: https://example.com/prices
    models:
      - {model: small, training: 2.0, input: 10.0, output: 30.0, max_tokens_per_row: 100}
      - {model: small, input: 1.0, output: 4.0, cached_input: 0.1, cache_write: 1.25}
  - service: there
    source: https://example.org/prices
    as_of: 2026-11-01
    note: from memory
    models:
      - {model: plain, input: 2.0, output: 8.0}
"""


@pytest.fixture
def pricing(tmp_path: Path) -> Pricing:
    path = tmp_path / "prices.yaml"
    path.write_text(TABLE, "utf-8")
    return pricing_of(DecideSection(machine_dollars_per_hour=3.6), path)


def reply(read: int, written: int, cached: int = 0, kept: int = 0) -> Reply:
    return Reply("text", "stop", read, written, cached_tokens=cached, written_tokens=kept)


def arm(name: str, score: float, cost: Cost) -> Arm:
    return Arm(name, name, "m", "measured", scores=(score,) * 10, cost=cost)


def test_each_kind_of_token_has_its_price(pricing: Pricing) -> None:
    cost = cost_of([reply(1000, 100, cached=600, kept=300), reply(1000, 200)], pricing, price="small")
    first = 100 * 1.0 + 600 * 0.1 + 300 * 1.25 + 100 * 4.0
    second = 1000 * 1.0 + 200 * 4.0
    assert cost.dollars_per_1000 == pytest.approx(1000 * (first + second) / 2 / 1e6)
    assert (cost.prompt_tokens, cost.completion_tokens, cost.cached_share) == (1000, 150, 0.3)
    assert cost.seconds_per_1000 is None
    assert (cost.training_minutes, cost.training_dollars) == (0.0, 0.0)


def test_without_prices_of_caches_every_token_costs_the_same(pricing: Pricing) -> None:
    costs = [cost_of([each], pricing, price="plain") for each in (reply(1000, 10), reply(1000, 10, 500, 500))]
    assert costs[0].dollars_per_1000 == costs[1].dollars_per_1000


def test_this_machine_costs_its_seconds_and_its_training(pricing: Pricing) -> None:
    cost = cost_of([reply(100, 10)], pricing, price=None, seconds_per_1000=500.0, training_minutes=30.0)
    assert cost.dollars_per_1000 == pytest.approx(0.5)
    assert cost.training_dollars == pytest.approx(1.8)
    assert amortised_dollars(cost, 100_000) == pytest.approx(0.5 + 0.018)


def test_what_has_no_price_is_unknown_and_never_free(pricing: Pricing) -> None:
    free = replace(pricing, machine_dollars_per_hour=None)
    here = cost_of([reply(100, 10)], free, price=None, seconds_per_1000=500.0, training_minutes=30.0)
    assert (here.dollars_per_1000, here.training_dollars) == (None, None)
    assert amortised_dollars(here, 1000) is None
    assert cost_of([reply(100, 10)], pricing, price="other").dollars_per_1000 is None


def test_the_bill_is_bounded_before_anything_is_asked(pricing: Pricing) -> None:
    bound = expected_dollars(pricing, "small", requests=200, prompt_tokens=1000, answer_tokens=50)
    for dearest in ([reply(1000, 50, kept=1000)], [reply(1000, 50, kept=1000), reply(1000, 50, cached=1000)]):
        spent = 200 * (cost_of(dearest, pricing, price="small").dollars_per_1000 or 0.0) / 1000
        assert 0 < spent <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", ["small", "small-20260101", "small-2026-01-01", "small-latest"])
def test_a_name_may_end_in_its_day(pricing: Pricing, name: str) -> None:
    found = find_price(pricing.table, name)
    assert found is not None
    assert found.input == 1.0


def test_a_tuned_model_has_the_price_of_tuned_ones(pricing: Pricing) -> None:
    found = find_price(pricing.table, "ft:small-2026-01-01:my-org::abc")
    assert found is not None
    assert (found.input, found.cached_input) == (10.0, 10.0)
    assert find_price(pricing.table, "ft:plain:my-org::abc") is None


def test_notes_tell_the_day_the_page_age_and_what_has_no_price(pricing: Pricing) -> None:
    notes = price_notes(["small", "plain", "other", "small"], pricing, datetime.date(2026, 11, 21))
    assert len(notes) == 4
    assert "2026-01-01" in notes[0]
    assert "more than half a year old" in notes[0]
    assert "2026-11-01 from https://example.org/prices; from memory" in notes[1]
    assert "no price for other" in notes[2]
    assert "$3.6 an hour" in notes[3]


def trained(dollars: float | None, training: float | None, seconds: float | None = 100.0) -> Cost:
    return Cost(1, 1, 1, 0.0, dollars, seconds, training_minutes=10.0, training_dollars=training)


def plain(dollars: float | None, seconds: float | None = None) -> Cost:
    return Cost(1, 1, 1, 0.0, dollars, seconds)


def break_even(pricing: Pricing, *arms: Arm) -> tuple[int | None, str]:
    last = with_break_even(arms, pricing)[-1].cost
    assert last is not None
    return last.break_even_requests, last.break_even_note


def test_training_pays_from_its_price_over_the_saving(pricing: Pricing) -> None:
    tuned = arm("tuned", 0.80, trained(0.2, 6.0))
    requests, note = break_even(
        pricing, arm("prompt", 0.5, plain(0.1)), arm("few_shot", 0.8, plain(0.9)), arm("rag", 0.79, plain(0.5)), tuned
    )
    assert requests == 20_000
    assert note == "from 20,000 requests on cheaper than rag, which is as good"


def test_training_never_pays_where_a_request_costs_no_less(pricing: Pricing) -> None:
    requests, note = break_even(pricing, arm("rag", 0.8, plain(0.1)), arm("tuned", 0.8, trained(0.2, 6.0)))
    assert (requests, note.split(":")[0]) == (None, "never")


def test_training_cannot_pay_against_arms_that_are_worse(pricing: Pricing) -> None:
    requests, note = break_even(pricing, arm("prompt", 0.5, plain(9.0)), arm("tuned", 0.8, trained(0.2, 6.0)))
    assert requests is None
    assert "no arm without training comes within 3\xa0points" in note


def test_without_a_price_two_arms_of_this_machine_are_compared_in_seconds(pricing: Pricing) -> None:
    tuned = arm("tuned", 0.8, trained(None, None, seconds=100.0))
    requests, _ = break_even(pricing, arm("rag", 0.8, plain(None, seconds=400.0)), tuned)
    assert requests == 600 * 1000 / 300
    requests, note = break_even(pricing, arm("rag:claude", 0.8, plain(0.5)), tuned)
    assert requests is None
    assert "without prices of this machine" in note


def test_the_shipped_table_has_current_models_each_with_its_page_and_day() -> None:
    table, _ = load_prices(SHIPPED)
    for name in ("claude-haiku-4-5", "claude-sonnet-5-5", "gpt-5-mini", "gpt-4o-mini", "gemini-2.5-flash"):
        found = find_price(table, name)
        assert found is not None
        assert found.source.startswith("https://")
        assert 0 < found.cached_input < found.input < found.output
    names = [(model.model, model.training is None) for service in table.services for model in service.models]
    assert len(set(names)) == len(names)
