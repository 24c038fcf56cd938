import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.repair.near import are_alike, cut_frame

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_a_frame_is_what_all_texts_begin_and_end_with(words: list[list[str]]) -> None:
    texts = [" ".join(each) for each in words]
    size, bare = cut_frame(texts)
    assert all(len(rest.split()) + size == len(each) for rest, each in zip(bare, words, strict=True))
    framed = [each.split() for each in bare]
    if size < min(map(len, words)):
        assert len({each[0] for each in framed}) > 1 or len(framed) == 1
        assert len({each[-1] for each in framed}) > 1 or len(framed) == 1


def test_words_between_a_shared_beginning_and_a_shared_end_are_left() -> None:
    assert cut_frame(["read this one and answer", "read this other one and answer"]) == (5, ["", "other"])


@pytest.mark.parametrize(("first", "second", "alike"), [("yes", "yes", True), ("yes", "yet", False)])
def test_short_texts_are_alike_only_if_they_are_equal(first: str, second: str, alike: bool) -> None:
    assert are_alike(first, second, 0.1) is alike
