"""Hosted bills: OpenAI's count of a row, the limit of a row, and price x tokens x epochs."""

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.errors import UserError
from kivnun.estimate.hosted import count_hosted_tokens, price_training
from kivnun.prices import SHIPPED, load_prices

TABLE = """\
as_of: 2026-01-01
currency: USD
services:
  - service: openai
    source: https://example.com/prices
    models:
      - {model: small, training: 2.0, input: 1.0, output: 3.0, max_tokens_per_row: 100}
"""


def count_letters(texts):
    return [len(text) for text in texts]


def write_table(folder: Path, text: str = TABLE) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_row_costs_three_tokens_and_each_message_three_more_and_a_name_one() -> None:
    messages = (
        Message("user", "שלום", trained=False, name="dana"),
        Message("assistant", "", trained=True, tool_calls=(ToolCall("1", "find", "{}"),)),
    )
    row = Conversation(messages, {}, "a.jsonl:1")
    text = len("user") + len("שלום") + len("dana") + len("assistant") + len("find") + len("{}")
    assert count_hosted_tokens([row], count_letters) == [3 + 2 * 3 + 1 + text]


def test_declared_tools_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "x" * 2_000}}
    turns = (Message("user", "a", trained=False), Message("assistant", "b", trained=True))
    plain, with_tool = Conversation(turns, {}, "a:1"), Conversation(turns, {}, "a:1", tools=(tool,))
    before, after = count_hosted_tokens([plain, with_tool], count_letters)
    assert after - before > 2_000


@given(tokens=st.lists(st.integers(1, 300), min_size=1), epochs=st.integers(1, 5))
def test_the_bill_is_price_times_tokens_times_epochs_with_rows_cut_at_the_limit(
    tokens: list[int], epochs: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table, _ = load_prices(write_table(tmp_path_factory.mktemp("prices")))
    (bill,) = price_training(tokens, epochs, table)
    assert bill.billed_tokens == epochs * sum(min(each, 100) for each in tokens)
    assert bill.dollars == pytest.approx(2.0 * bill.billed_tokens / 1_000_000)
    assert bill.num_cut == sum(each > 100 for each in tokens)


def test_the_shipped_table_loads_and_knows_its_day() -> None:
    table, path = load_prices(SHIPPED)
    assert path == SHIPPED
    assert not table.is_old(table.as_of + datetime.timedelta(days=180))
    assert table.is_old(table.as_of + datetime.timedelta(days=181))


def test_the_users_own_table_comes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config" / "kivnun").mkdir(parents=True)
    own = write_table(tmp_path / ".config" / "kivnun")
    assert load_prices()[1] == own
    assert load_prices(SHIPPED)[1] == SHIPPED


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TABLE.replace("training: 2.0", "trainnig: 2.0"), "services.0.models.0.trainnig"),
        (TABLE.replace("training: 2.0", "training: -2.0"), "services.0.models.0.training"),
        (TABLE.replace("as_of: 2026-01-01", "as_of: soon"), "as_of"),
        (TABLE.replace("2026-01-01", "2026-13-01"), "month"),
        (TABLE.replace("USD", "EUR"), "currency"),
        (TABLE.replace("2026-01-01", "2999-01-01"), "as_of"),
        ("[" * 3_000, "prices.yaml"),
        ("a: [", "prices.yaml"),
    ],
)
def test_a_wrong_table_is_refused_by_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        load_prices(write_table(tmp_path, text))
    assert caught.value.code == "prices-invalid"
    assert named in str(caught.value)
