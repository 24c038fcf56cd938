from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mending import Mended, jsonl, mend

from kivnun.data.repair.balance import BalanceOptions, balance, choose_copies
from kivnun.errors import UserError

SIZES = {"שמחה": 12, "עצב": 5, "כעס": 3}
ROWS = [{"text": f"משפט {label} {number}", "label": label} for label, size in SIZES.items() for number in range(size)]


def even(folder: Path, options: BalanceOptions | None = None, rows: list[dict[str, str]] = ROWS) -> Mended:
    return mend(folder, balance, jsonl(*rows), options or BalanceOptions())


def sizes(mended: Mended) -> dict[object, int]:
    return dict(Counter(row["label"] for row in mended.rows))


def test_down_leaves_as_many_rows_of_each_label_as_the_rarest_has_in_their_order(tmp_path: Path) -> None:
    mended = even(tmp_path)
    assert sizes(mended) == {"שמחה": 3, "עצב": 3, "כעס": 3}
    places = [ROWS.index(row) for row in mended.rows]
    assert places == sorted(places)
    assert len(mended.log) == 11
    assert mended.log[0]["label"] == "שמחה"


def test_up_repeats_rows_until_each_label_has_as_many_as_the_most_frequent(tmp_path: Path) -> None:
    mended = even(tmp_path, BalanceOptions(by="up"))
    assert sizes(mended) == {"שמחה": 12, "עצב": 12, "כעס": 12}
    times = Counter(str(row["text"]) for row in mended.rows)
    assert set(times) == {row["text"] for row in ROWS}
    assert sorted(times[row["text"]] for row in ROWS if row["label"] == "עצב") == [2, 2, 2, 3, 3]
    assert sum(entry["times"] for entry in mended.log) == 12 + 12


def test_a_number_of_rows_may_be_named(tmp_path: Path) -> None:
    assert sizes(even(tmp_path, BalanceOptions(rows=4))) == {"שמחה": 4, "עצב": 4, "כעס": 3}
    assert sizes(even(tmp_path, BalanceOptions(by="up", rows=4))) == {"שמחה": 12, "עצב": 5, "כעס": 4}


def test_the_same_rows_are_chosen_whatever_their_order_and_others_by_another_seed(tmp_path: Path) -> None:
    def chosen(rows: list[dict[str, str]], seed: int = 0) -> set[object]:
        return {row["text"] for row in even(tmp_path, BalanceOptions(seed=seed), rows).rows}

    assert chosen(ROWS) == chosen(ROWS[::-1])
    assert chosen(ROWS) != chosen(ROWS, seed=1)


def test_any_column_may_be_made_even(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "completion": f"long answer {n}", "source": "a" if n < 7 else "b"} for n in range(9)]
    mended = even(tmp_path, BalanceOptions(column="source"), rows)
    assert Counter(row["source"] for row in mended.rows) == {"a": 2, "b": 2}


def test_rows_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labels") as caught:
        even(tmp_path, rows=[{"prompt": "x", "completion": "long " * 40}] * 3)
    assert caught.value.code == "data-field"
    with pytest.raises(UserError, match="no column 'kind'"):
        even(tmp_path, BalanceOptions(column="kind"))
    with pytest.raises(UserError, match="no labels"):
        even(tmp_path, rows=[{"prompt": "x", "completion": str(number)} for number in range(300)])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1), st.integers(1, 12))
def test_every_label_gets_what_is_wanted_and_no_row_is_favoured(rows: list[tuple[int, int]], wanted: int) -> None:
    labels = np.unique([label for label, _ in rows], return_inverse=True)[1]
    hashes = np.array([value for _, value in rows], dtype=np.uint64)
    before = np.bincount(labels)
    down = choose_copies(labels, hashes, by="down", rows=wanted)
    assert np.bincount(labels, weights=down).tolist() == np.minimum(before, wanted).tolist()
    assert set(down.tolist()) <= {0, 1}
    up = choose_copies(labels, hashes, by="up", rows=wanted)
    assert np.bincount(labels, weights=up).tolist() == np.maximum(before, wanted).tolist()
    for label in range(len(before)):
        assert np.ptp(up[labels == label]) <= 1
