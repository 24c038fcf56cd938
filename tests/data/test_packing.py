"""Packing: no token lost, none trained twice, none predicted from another document."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.packing import iterate_in_order, pack, plan_epoch, split_rows
from kivnun.data.tokens import TokenizedRow, TokenTable, load_table, make_table, save_table

rows_of_tokens = st.lists(
    st.lists(st.tuples(st.integers(0, 9999), st.booleans()), min_size=1, max_size=12).map(
        lambda pairs: TokenizedRow([token for token, _ in pairs], [trained for _, trained in pairs])
    ),
    min_size=1,
    max_size=12,
)
some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def targets(row: TokenizedRow) -> list[tuple[int, int]]:
    """Pairs of a token and the trained token that follows it."""
    pairs = zip(row.input_ids, row.input_ids[1:], row.trained[1:], strict=False)
    return [(token, following) for token, following, trained in pairs if trained]


@given(rows_of_tokens)
def test_packing_conserves_tokens_and_targets(rows: list[TokenizedRow]) -> None:
    batch = pack(make_table(rows), range(len(rows)))
    packed = [rows[row] for row in batch.documents]
    assert batch.input_ids.tolist() == [token for row in packed for token in row.input_ids]
    assert batch.lengths == tuple(len(row.input_ids) for row in packed)
    assert list(batch.lengths) == sorted(batch.lengths)
    before = batch.input_ids[batch.target_positions].tolist()
    assert list(zip(before, batch.target_ids.tolist(), strict=True)) == [
        pair for row in packed for pair in targets(row)
    ]


@given(rows_of_tokens)
def test_positions_restart_and_no_document_is_predicted_from_another(rows: list[TokenizedRow]) -> None:
    batch = pack(make_table(rows), range(len(rows)))
    assert batch.position_ids.tolist() == [position for length in batch.lengths for position in range(length)]
    # The target of position p is p + 1, which must lie in the same document.
    assert 0 not in batch.position_ids[batch.target_positions + 1].tolist()
    assert batch.num_tokens == sum(batch.lengths)


@given(some_lengths, st.integers(1, 60), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_takes_each_row_once_within_the_budget(lengths, batch_tokens, seed, epoch) -> None:
    plan = plan_epoch(lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
    assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[row] for row in batch) <= batch_tokens for batch in plan)
    assert plan == plan_epoch(lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)


def test_epochs_and_seeds_shuffle_differently() -> None:
    plans = [plan_epoch([3] * 50, batch_tokens=9, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(plans.index(plan) == index for index, plan in enumerate(plans))


def test_a_batch_is_as_full_as_the_next_row_allows() -> None:
    assert [len(batch) for batch in plan_epoch([3] * 7, batch_tokens=9, seed=0, epoch=0)] == [3, 3, 1]


def test_a_known_plan_stays_as_it_is() -> None:
    """A change here would make a killed run go on with other batches than it began with."""
    assert plan_epoch([2, 3, 4, 5, 6, 7], batch_tokens=9, seed=0, epoch=1) == [[1, 4], [3, 0], [2], [5]]


@given(some_lengths, st.integers(1, 8))
def test_micro_batches_share_the_rows_and_are_balanced(lengths: list[int], num_parts: int) -> None:
    parts = split_rows(range(len(lengths)), lengths, num_parts)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(parts)
    assert len(parts) == min(num_parts, len(lengths))
    totals = [sum(lengths[row] for row in part) for part in parts]
    fullest = parts[totals.index(max(totals))]
    # Its last and smallest row went there because no other part had less.
    assert max(totals) - min(totals) <= min(lengths[row] for row in fullest)


@given(rows_of_tokens, st.integers(1, 30))
def test_scoring_sees_each_row_once_shortest_first(rows: list[TokenizedRow], batch_tokens: int) -> None:
    table = make_table(rows)
    batches = list(iterate_in_order(table, batch_tokens=batch_tokens))
    assert sorted(row for batch in batches for row in batch.documents) == list(range(len(rows)))
    lengths = [length for batch in batches for length in batch.lengths]
    assert lengths == sorted(lengths)
    assert all(len(batch.documents) == 1 or batch.num_tokens <= batch_tokens for batch in batches)


@pytest.mark.parametrize("rows", [[], [TokenizedRow([7, 2**31 - 1], [False, True]), TokenizedRow([1], [False])]])
def test_a_table_is_the_same_after_a_file(tmp_path: Path, rows: list[TokenizedRow]) -> None:
    table = make_table(rows)
    save_table(table, tmp_path / "table.safetensors")
    loaded = load_table(tmp_path / "table.safetensors")
    for name in ("ids", "mask", "offsets"):
        before, after = getattr(table, name), getattr(loaded, name)
        assert before.dtype == after.dtype
        assert np.array_equal(before, after)
    assert read_back(loaded) == [(row.input_ids, row.trained) for row in rows]


def read_back(table: TokenTable) -> list[tuple[list[int], list[bool]]]:
    assert table.lengths() == [table.length(row) for row in range(len(table))]
    return [(table.input_ids(row).tolist(), table.trained(row).astype(bool).tolist()) for row in range(len(table))]


def test_a_table_counts_its_tokens() -> None:
    table = make_table([TokenizedRow([1, 2, 3], [False, True, True]), TokenizedRow([4], [True])])
    assert (len(table), table.num_tokens, table.num_trained) == (2, 4, 3)
