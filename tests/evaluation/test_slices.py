"""Scores of parts of the rows."""

import pytest

from kivnun.errors import UserError
from kivnun.evaluation.scoring import ScoredRow
from kivnun.evaluation.slices import MAX_VALUES, slice_scores


def make_row(prompt, **fields):
    return ScoredRow("", "a:1", prompt, ("x",), fields)


def parts(rows, scores, by):
    return [(part.value, part.num_rows, part.score.value) for part in slice_scores(rows, scores, by, resamples=100)]


def test_a_column_parts_the_rows_and_the_largest_part_comes_first():
    rows = [make_row("p", topic=topic) for topic in ("tax", "visa", "visa", "")]
    assert parts(rows, [1, 0, 1, 1], "topic") == [("visa", 2, 0.5), ("(none)", 1, 1), ("tax", 1, 1)]


def test_language_is_told_by_the_script_and_a_column_of_that_name_goes_before():
    rows = [make_row("שלום לך"), make_row("hello"), make_row("שלום hi"), make_row("123")]
    assert parts(rows, [1, 0, 0, 1], "language") == [("Hebrew", 2, 0.5), ("(none)", 1, 1), ("Latin", 1, 0)]
    assert parts([make_row("hello", language="nl")], [1], "language") == [("nl", 1, 1)]


def test_lengths_are_thirds_of_the_rows_from_short_to_long():
    rows = [make_row("x" * length) for length in (30, 1, 20, 2, 10, 3)]
    assert parts(rows, [1, 0, 1, 0, 0, 0], "length") == [
        ("1 to 2 characters", 2, 0),
        ("3 to 10 characters", 2, 0),
        ("11 to 30 characters", 2, 1),
    ]
    assert parts([make_row("xx")] * 3, [1, 1, 1], "length") == [("2 characters", 3, 1)]


def test_of_many_values_the_commonest_are_shown_and_the_others_are_counted():
    rows = [make_row("p", topic=str(number)) for number in range(30)] + [make_row("p", topic="7")]
    found = parts(rows, [1] * 31, "topic")
    assert found[0] == ("7", 2, 1)
    assert found[-1] == ("(others)", 10, 1)
    assert len(found) == MAX_VALUES + 1
    assert sum(count for _, count, _ in found) == 31


def test_a_column_that_no_row_has_is_refused():
    with pytest.raises(UserError, match="no row has a column 'topc'") as caught:
        slice_scores([make_row("p", topic="tax")], [1], "topc")
    assert caught.value.code == "evaluation-invalid"
