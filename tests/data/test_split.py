"""Splits: whole, in proportion, and the same wherever and in whatever order they are cut."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import refusal

from kivnun.data.split import SPLITS, assign_splits
from kivnun.recipe.schema import SplitSection

HASHES = [f"row {number}" for number in range(500)]
STRATA = ["joy" if number % 5 else "anger" for number in range(500)]


def split(**values: object) -> SplitSection:
    return SplitSection.model_validate({"validation": 0.1, "test": 0.2, **values})


def test_every_stratum_is_cut_in_the_same_proportions() -> None:
    places = assign_splits(HASHES, STRATA, split(stratify_by="tone"))
    assert Counter(zip(STRATA, places, strict=True)) == {
        ("joy", "train"): 280,
        ("joy", "validation"): 40,
        ("joy", "test"): 80,
        ("anger", "train"): 70,
        ("anger", "validation"): 10,
        ("anger", "test"): 20,
    }


@given(
    sizes=st.lists(st.integers(20, 60), min_size=1, max_size=6),
    validation=st.sampled_from([0, 0.1, 0.15, 7]),
    test=st.sampled_from([0, 0.1, 0.25, 9]),
    seed=st.integers(0, 5),
)
def test_totals_are_right_and_no_stratum_is_off_by_more_than_one(sizes, validation, test, seed) -> None:
    strata = [str(index) for index, size in enumerate(sizes) for _ in range(size)]
    hashes = [f"row {number}" for number in range(len(strata))]
    wanted = split(validation=validation, test=test, seed=seed, stratify_by="tone")
    places = assign_splits(hashes, strata, wanted)
    for name, size in (("validation", validation), ("test", test)):
        total = round(size * len(hashes)) if isinstance(size, float) else size
        assert places.count(name) == total
        counts = Counter(stratum for stratum, place in zip(strata, places, strict=True) if place == name)
        for index, rows in enumerate(sizes):
            assert abs(counts[str(index)] - total * rows / len(hashes)) < 1


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(chance: random.Random) -> None:
    rows = list(zip(HASHES[:80], STRATA[:80], strict=True))
    # The same row in two strata: which of them counts must not be the one that comes last.
    rows += [("row 3", "anger"), ("row 4", "joy"), ("row 5", "joy")]
    shuffled = chance.sample(rows, len(rows))
    wanted = split(stratify_by="tone")
    first = dict(zip((row for row, _ in rows), assign_splits(*zip(*rows, strict=True), wanted), strict=True))
    second = dict(zip((row for row, _ in shuffled), assign_splits(*zip(*shuffled, strict=True), wanted), strict=True))
    assert first == second


def test_equal_rows_land_together() -> None:
    hashes = HASHES + HASHES[::-1] + HASHES[:50]
    places = assign_splits(hashes, [""] * len(hashes), split())
    found = {
        digest: {place for other, place in zip(hashes, places, strict=True) if other == digest} for digest in HASHES
    }
    assert all(len(places) == 1 for places in found.values())


def test_the_seed_and_nothing_else_changes_the_split() -> None:
    first = assign_splits(HASHES, STRATA, split(seed=1))
    assert first == assign_splits(HASHES, STRATA, split(seed=1))
    assert first != assign_splits(HASHES, STRATA, split(seed=2))
    assert set(first) == set(SPLITS)


def test_a_known_split_stays_as_it_is() -> None:
    """A change here would move the rows of every run that people already have."""
    places = assign_splits(HASHES[:12], [""] * 12, split(validation=2, test=3))
    assert [row for row, place in enumerate(places) if place == "validation"] == [2, 9]
    assert [row for row, place in enumerate(places) if place == "test"] == [1, 8, 10]


def test_splits_may_be_left_out() -> None:
    assert set(assign_splits(HASHES, STRATA, split(validation=0, test=0))) == {"train"}
    assert set(assign_splits(HASHES, STRATA, split(validation=0))) == {"train", "test"}


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (3, {}),
        (12, {"validation": 6, "test": 6}),
        (4, {"validation": 0, "test": 0.1}),
        (1, {"validation": 1, "test": 0}),
    ],
)
def test_too_few_rows_are_refused_with_their_number(rows: int, values: dict[str, object]) -> None:
    wanted = split(**values)
    error = refusal(lambda: assign_splits(HASHES[:rows], STRATA[:rows], wanted))
    assert error.code == "split-too-small"
    assert error.problem == (
        f"{rows} different row(s) cannot give validation {wanted.validation} and test {wanted.test}"
    )


def test_equal_rows_count_once_for_the_size_of_a_split() -> None:
    assert refusal(lambda: assign_splits(["same"] * 100, [""] * 100, split())).code == "split-too-small"


def test_a_stratum_that_would_vanish_from_train_is_named() -> None:
    strata = ["rare", "common", "common", "common"]
    error = refusal(lambda: assign_splits(HASHES[:4], strata, split(validation=0, test=3, stratify_by="tone")))
    assert error.code == "split-too-small"
    assert error.problem.startswith("tone='rare' has only 1 different row(s)")
