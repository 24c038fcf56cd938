"""Splits: whole, in proportion, and the same wherever and in whatever order they are cut."""

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_data import refusal

from kivnun.data.split import SPLITS, assign_by_time, assign_splits
from kivnun.data.times import read_moments
from kivnun.errors import UserError
from kivnun.recipe.schema import SplitSection

HASHES = [f"row {number}" for number in range(500)]
STRATA = ["joy" if number % 5 else "anger" for number in range(500)]


def split(**values: object) -> SplitSection:
    return SplitSection.model_validate({"validation": 0.1, "test": 0.2, **values})


def cut(hashes: list[str], strata: list[str], wanted: SplitSection) -> list[str]:
    return list(assign_splits(hashes, strata, wanted).places)


def test_every_stratum_is_cut_in_the_same_proportions() -> None:
    places = cut(HASHES, STRATA, split(stratify_by="tone"))
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
    places = cut(hashes, strata, wanted)
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
    first = dict(zip((row for row, _ in rows), cut(*zip(*rows, strict=True), wanted), strict=True))
    second = dict(zip((row for row, _ in shuffled), cut(*zip(*shuffled, strict=True), wanted), strict=True))
    assert first == second


def test_equal_rows_land_together() -> None:
    hashes = HASHES + HASHES[::-1] + HASHES[:50]
    places = cut(hashes, [""] * len(hashes), split())
    found = {
        digest: {place for other, place in zip(hashes, places, strict=True) if other == digest} for digest in HASHES
    }
    assert all(len(places) == 1 for places in found.values())


def test_the_seed_and_nothing_else_changes_the_split() -> None:
    first = cut(HASHES, STRATA, split(seed=1))
    assert first == cut(HASHES, STRATA, split(seed=1))
    assert first != cut(HASHES, STRATA, split(seed=2))
    assert set(first) == set(SPLITS)


def test_a_known_split_stays_as_it_is() -> None:
    """A change here would move the rows of every run that people already have."""
    places = cut(HASHES[:12], [""] * 12, split(validation=2, test=3))
    assert [row for row, place in enumerate(places) if place == "validation"] == [2, 9]
    assert [row for row, place in enumerate(places) if place == "test"] == [1, 8, 10]


def test_splits_may_be_left_out() -> None:
    assert set(cut(HASHES, STRATA, split(validation=0, test=0))) == {"train"}
    assert set(cut(HASHES, STRATA, split(validation=0))) == {"train", "test"}


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
    error = refusal(lambda: cut(HASHES[:rows], STRATA[:rows], wanted))
    assert error.code == "split-too-small"
    assert error.problem == (
        f"{rows} different row(s) cannot give validation {wanted.validation} and test {wanted.test}"
    )


def test_equal_rows_count_once_for_the_size_of_a_split() -> None:
    assert refusal(lambda: cut(["same"] * 100, [""] * 100, split())).code == "split-too-small"


def test_a_stratum_that_would_vanish_from_train_is_named() -> None:
    strata = ["rare", "common", "common", "common"]
    error = refusal(lambda: cut(HASHES[:4], strata, split(validation=0, test=3, stratify_by="tone")))
    assert error.code == "split-too-small"
    assert error.problem.startswith("tone='rare' has only 1 different row(s)")


def cut_groups(groups: list[int], **values: object) -> tuple[list[str], list[str]]:
    """Places and notes of different rows in groups."""
    hashes = [f"row {number}" for number in range(len(groups))]
    assignment = assign_splits(hashes, [""] * len(groups), split(**values), groups=groups)
    return list(assignment.places), list(assignment.notes)


def rows_by_group(groups: list[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        found[group].append(row)
    return found


@given(st.lists(st.integers(1, 6), min_size=20, max_size=60), st.integers(0, 3))
def test_a_group_never_straddles_two_splits_and_sizes_are_off_by_less_than_a_group(sizes, seed) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    places, notes = cut_groups(groups, seed=seed)
    assert all(len({places[row] for row in rows}) == 1 for rows in rows_by_group(groups).values())
    for name, share in (("test", 0.2), ("validation", 0.1)):
        wanted, found = round(share * len(groups)), places.count(name)
        assert found > 0
        assert abs(found - wanted) < max(sizes)
        assert any(note.startswith(f"{name}: {found} different row(s) in place of {wanted},") for note in notes) == (
            found != wanted
        )


@given(st.lists(st.integers(1, 5), min_size=15, max_size=25), st.randoms(use_true_random=False))
def test_groups_land_alike_in_whatever_order_the_rows_stand(sizes, chance: random.Random) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    hashes = [f"row {number}" for number in range(len(groups))]
    strata = ["joy" if number % 3 else "anger" for number in range(len(groups))]
    # A row that stands twice, in two strata.
    rows = [*zip(hashes, strata, groups, strict=True), (hashes[0], "anger", groups[0])]
    order = chance.sample(range(len(rows)), len(rows))
    names = chance.sample(range(99), len(sizes))
    first = assign_splits(hashes + hashes[:1], [*strata, "anger"], split(), groups=[*groups, groups[0]])
    shuffled = [rows[row] for row in order]
    second = assign_splits(
        [digest for digest, _, _ in shuffled],
        [stratum for _, stratum, _ in shuffled],
        split(),
        groups=[names[group] for _, _, group in shuffled],
    )
    assert [first.places[row] for row in order] == second.places
    assert first.notes == second.notes


def test_groups_of_one_row_are_cut_as_if_there_were_none() -> None:
    wanted = split(stratify_by="tone")
    grouped = assign_splits(HASHES, STRATA, wanted, groups=list(range(len(HASHES))))
    assert list(grouped.places) == cut(HASHES, STRATA, wanted)
    assert grouped.notes == ()


@given(st.integers(0, 10_000))
def test_one_more_row_moves_few_others(number: int) -> None:
    groups = [row // 3 for row in range(300)]
    before, _ = cut_groups(groups)
    hashes = [f"row {row}" for row in range(300)]
    grown = assign_splits([*hashes, f"new {number}"], [""] * 301, split(), groups=[*groups, -1]).places
    assert sum(old != new for old, new in zip(before, grown, strict=False)) <= 9


@pytest.mark.parametrize(("size", "wanted", "found"), [(3, 11, 12), (3, 10, 9), (4, 10, 8), (20, 3, 20)])
def test_a_split_takes_one_group_more_only_if_that_comes_nearer(size: int, wanted: int, found: int) -> None:
    places, _ = cut_groups([row // size for row in range(120)], validation=0, test=wanted)
    assert places.count("test") == found


def test_a_giant_group_trains_and_the_sizes_are_kept() -> None:
    places, notes = cut_groups([0] * 60 + list(range(1, 41)))
    assert {*places[:60]} == {"train"}
    assert (places.count("test"), places.count("validation")) == (20, 10)
    assert notes == []


def test_rows_that_are_all_one_group_cannot_be_cut() -> None:
    error = refusal(lambda: cut_groups([0] * 50))
    assert error.code == "split-too-small"
    assert "rows that stay together are too many (up to 50)" in error.problem
    assert "near_duplicates: ignore" in error.hint


def test_a_stratum_in_few_groups_is_named_with_their_number() -> None:
    hashes = [f"row {number}" for number in range(20)]
    strata = ["rare"] * 4 + ["common"] * 16
    groups = [0] * 4 + list(range(1, 17))
    wanted = split(validation=0, test=0.5, stratify_by="tone")
    error = refusal(lambda: assign_splits(hashes, strata, wanted, groups=groups))
    assert error.problem.startswith("tone='rare' has only 4 different row(s) in 1 group(s)")


def cut_times(times: list[object], groups: list[int] | None = None, **values: object) -> tuple[list[str], list[str]]:
    hashes = [f"row {number}" for number in range(len(times))]
    texts = [str(time) for time in times]
    moments = read_moments(texts, [f"a.jsonl:{line}" for line in range(1, len(times) + 1)], "when")
    assignment = assign_by_time(hashes, moments, split(time_by="when", **values), groups=groups)
    return list(assignment.places), list(assignment.notes)


def test_the_oldest_rows_train_and_the_newest_test() -> None:
    days = [f"2024-01-{day:02d}" for day in range(1, 21)]
    places, notes = cut_times(days[::-1])
    assert places == ["test"] * 4 + ["validation"] * 2 + ["train"] * 14
    assert notes == ["test: rows from 2024-01-17 on", "validation: rows from 2024-01-15 to 2024-01-16"]


def can_be_cut(times: list[int], groups: list[int]) -> bool:
    try:
        cut_times(list(times), groups)
    except UserError as error:
        return error.code != "split-too-small"
    return True


@given(st.lists(st.integers(-5, 30), min_size=30, max_size=80), st.integers(0, 3))
def test_nothing_that_is_trained_is_newer_than_what_is_measured(times, num_groups) -> None:
    groups = [row % 20 if num_groups and row % 4 < num_groups else 100 + row for row in range(len(times))]
    assume(can_be_cut(times, groups))
    places, _ = cut_times(list(times), groups)
    newest = {group: max(times[row] for row in rows) for group, rows in rows_by_group(groups).items()}
    by_split = {name: [newest[groups[row]] for row, place in enumerate(places) if place == name] for name in SPLITS}
    assert max(by_split["train"]) < min(by_split["validation"])
    assert max(by_split["validation"]) < min(by_split["test"])


def test_rows_of_one_time_stay_together_and_the_size_is_said() -> None:
    places, notes = cut_times([1] * 10 + [2] * 4 + [3] * 6, validation=0)
    assert places == ["train"] * 14 + ["test"] * 6
    assert notes[1] == "test: 6 different row(s) in place of 4, since rows stay together (up to 10)"


def test_times_that_are_all_the_same_cannot_be_cut() -> None:
    assert refusal(lambda: cut_times([7] * 30)).code == "split-too-small"


def test_dates_are_ordered_whatever_their_zone_and_detail() -> None:
    texts = ["2024-05", "2024-05-01T00:30:00+02:00", "2024-05-01", "2024-05-01T00:00:01Z", "2023-12-31 23:59"]
    moments = read_moments(texts, ["a:1"] * 5, "when")
    assert [texts.index(moment.text) for moment in sorted(moments)] == [4, 1, 0, 2, 3]


def test_numbers_are_ordered_as_numbers() -> None:
    texts = ["10", "9", "-1.5", "1e3", "+2"]
    assert [moment.text for moment in sorted(read_moments(texts, ["a:1"] * 5, "year"))] == [
        "-1.5",
        "+2",
        "9",
        "10",
        "1e3",
    ]


@pytest.mark.parametrize("text", ["yesterday", "31/05/2024", "2024-13-01", "nan", "1_000", "", "\u0665", "1e999"])
def test_what_is_no_time_is_refused_with_its_line(text: str) -> None:
    error = refusal(lambda: read_moments(["1", text], ["a.csv:2", "a.csv:3"], "when"))
    assert error.code == "data-field"
    assert error.details == (f"a.csv:3: field 'when' is no date and no number: {text!r}",)


def test_a_date_among_numbers_is_refused() -> None:
    error = refusal(lambda: read_moments(["2021", "2021-05-03"], ["a.csv:2", "a.csv:3"], "when"))
    assert error.details == ("a.csv:3: field 'when' is a date, but the first row's is a number: '2021-05-03'",)
