import random
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.fingerprint import fingerprint
from kivnun.data.duplicates.groups import connect, first_equal, pair_rows

BASE = "the quick brown fox jumps over the lazy dog while the cat looks on from the window of the old house"


def ask(question: str, answer: str = "x") -> Conversation:
    return Conversation((Message("user", question, False), Message("assistant", answer, True)), {}, "a:1")


def prints_of(*questions: str, near: bool = True):
    return fingerprint([ask(question) for question in questions], range(len(questions)), file=0, near=near)


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
def test_components_are_those_of_a_walk_through_the_pairs(case: tuple[int, list[tuple[int, int]]]) -> None:
    size, pairs = case
    neighbours: dict[int, set[int]] = {place: {place} for place in range(size)}
    for first, second in pairs:
        joined = neighbours[first] | neighbours[second]
        for place in joined:
            neighbours[place] = joined
    expected = [min(neighbours[place]) for place in range(size)]
    found = connect(np.arange(size), np.array(pairs, dtype=np.int64).reshape(-1, 2))
    assert found.tolist() == expected


def test_a_long_chain_is_one_component() -> None:
    places = list(range(5000))
    random.Random(1).shuffle(places)  # noqa: S311
    pairs = np.array(list(pairwise(places)))
    assert set(connect(np.arange(5000), pairs).tolist()) == {0}


@given(st.lists(st.integers(0, 5), max_size=20))
def test_each_value_is_traced_to_where_it_stands_first(values: list[int]) -> None:
    assert first_equal(np.array(values, dtype=np.uint64)).tolist() == [values.index(value) for value in values]


def test_nearly_equal_inputs_are_pairs() -> None:
    assert pair_rows(prints_of("short", BASE, BASE.upper() + "!", BASE + "s", "short text", "short")).tolist() == [
        [1, 3]
    ]


def test_rows_without_signatures_have_no_pairs() -> None:
    assert pair_rows(prints_of(BASE, BASE + "s", near=False)).shape == (0, 2)


def test_a_near_pair_names_the_first_of_equal_inputs() -> None:
    assert pair_rows(prints_of(BASE + "s", BASE, BASE, BASE + "s")).tolist() == [[0, 1]]


def test_no_rows_have_no_pairs() -> None:
    assert pair_rows(prints_of()).shape == (0, 2)
