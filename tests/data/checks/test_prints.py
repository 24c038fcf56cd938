"""A stack of fingerprints is what they are joined, whatever the parts."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.checks.prints import PrintStack
from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.fingerprint import Fingerprints, concatenate, fingerprint


def make(sizes: list[int], *, near: bool = True) -> list[Fingerprints]:
    parts = []
    for number, size in enumerate(sizes):
        rows = [
            Conversation(
                (Message("user", f"{number} {row}", trained=False), Message("assistant", "a", trained=True)), {}, "a:1"
            )
            for row in range(size)
        ]
        parts.append(fingerprint(rows, range(1, size + 1), file=number, near=near))
    return parts


def stack(parts: list[Fingerprints]) -> Fingerprints | None:
    made = PrintStack()
    for part in parts:
        made.add(part)
    assert made.num_rows == sum(map(len, parts))
    return made.take()


def assert_equal(left: Fingerprints | None, right: Fingerprints) -> None:
    assert left is not None
    for field in fields(Fingerprints):
        one, other = getattr(left, field.name), getattr(right, field.name)
        assert (one is None) == (other is None), field.name
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), near=st.booleans())
def test_parts_are_joined_in_their_order(sizes: list[int], near: bool) -> None:
    parts = make(sizes, near=near)
    assert_equal(stack(parts), concatenate(parts))


@pytest.mark.parametrize("near", [True, False])
def test_growing_keeps_what_was_there(near: bool) -> None:
    (part,) = make([1500], near=near)
    parts = [replace(part, line=part.line + 1500 * number) for number in range(7)]
    assert_equal(stack(parts), concatenate(parts))


@pytest.mark.parametrize("bare", [0, 1, 2])
def test_signatures_are_kept_only_where_all_parts_have_them(bare: int) -> None:
    parts = make([3, 3, 3])
    parts[bare] = replace(parts[bare], signatures=None)
    assert_equal(stack(parts), concatenate(parts))


def test_a_stack_is_empty_once_it_is_taken() -> None:
    made = PrintStack()
    assert made.take() is None
    made.add(make([2])[0])
    assert made.take() is not None
    assert (made.take(), made.num_rows) == (None, 0)
