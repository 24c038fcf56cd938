import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.duplicates.minhash import (
    NO_SIGNATURE,
    _hash_grams,
    _pairs_of_equal,
    estimate_similarity,
    measure_similarity,
    near_pairs,
    signatures,
)

HEBREW = "אבגדהוזחטיכלמנסעפצקרשת     "


def draw_text(generator: random.Random, length: int = 200, letters: str = HEBREW) -> str:
    return "".join(generator.choices(letters, k=length))


def change_letters(text: str, count: int, generator: random.Random) -> str:
    changed = list(text)
    for place in generator.sample(range(len(text)), count):
        changed[place] = "x"
    return "".join(changed)


def test_a_signature_depends_on_its_text_alone() -> None:
    generator = random.Random(1)  # noqa: S311
    texts = [draw_text(generator, generator.randint(10, 3000)) for _ in range(200)]
    together = signatures(texts)
    for index in (0, 1, 77, 199):
        assert np.array_equal(together[index], signatures([texts[index]])[0])


def test_equal_places_estimate_the_share_of_common_grams() -> None:
    generator = random.Random(2)  # noqa: S311
    texts = [draw_text(generator) for _ in range(400)]
    others = [change_letters(text, generator.randint(0, 20), generator) for text in texts]
    pairs = np.stack([np.arange(400), np.arange(400) + 400], axis=1)
    estimated = estimate_similarity(signatures(texts + others), pairs)
    true = np.array([measure_similarity(*pair) for pair in zip(texts, others, strict=True)])
    expected = np.sqrt((true * (1 - true) / 64).mean())
    assert abs((estimated - true).mean()) < 4 * expected / np.sqrt(400)
    assert 0.8 < (estimated - true).std() / expected < 1.2


def test_short_texts_have_no_signature_and_no_pair() -> None:
    signed = signatures(["nineteen characters", "nineteen characters", "twenty characters ok"])
    assert (signed[:2] == NO_SIGNATURE).all()
    assert (signed[2] != NO_SIGNATURE).all()
    assert len(near_pairs(signed)) == 0


def test_near_texts_are_paired_and_others_are_not() -> None:
    generator = random.Random(3)  # noqa: S311
    texts = [draw_text(generator) for _ in range(300)]
    copies = [change_letters(text, 2, generator) for text in texts[:100]]
    pairs = near_pairs(signatures(texts + copies))
    assert {tuple(pair) for pair in pairs.tolist()} <= {(index, 300 + index) for index in range(100)}
    # 92% of the grams of each pair are common; one estimate in thirty is below the threshold of 85%.
    assert len(pairs) >= 90


def test_texts_of_scripts_without_spaces_are_paired() -> None:
    generator = random.Random(4)  # noqa: S311
    text = "".join(chr(0x4E00 + generator.randrange(2000)) for _ in range(80))
    assert near_pairs(signatures([text, text[:40] + text[41:], text[::-1]])).tolist() == [[0, 1]]


def test_of_many_equal_texts_each_is_paired_but_not_each_with_each() -> None:
    pairs = near_pairs(signatures(["twenty characters ok and more"] * 1000))
    assert set(pairs[:, 1].tolist()) == set(range(1, 1000))
    assert len(pairs) <= 2 * 1000


def test_a_higher_threshold_leaves_fewer_pairs() -> None:
    generator = random.Random(5)  # noqa: S311
    texts = [draw_text(generator) for _ in range(50)]
    signed = signatures([*texts, *(change_letters(text, 4, generator) for text in texts)])
    assert len(near_pairs(signed, threshold=0.99)) < len(near_pairs(signed, threshold=0.6))


def test_no_texts_have_no_pairs() -> None:
    assert signatures([]).shape == (0, 64)
    assert near_pairs(signatures([])).shape == (0, 2)


def test_grams_do_not_reach_over_the_end_of_a_text() -> None:
    texts = ["abcdefgh", "ijklm", "שלוםX"]
    grams, starts = _hash_grams(texts)
    assert starts.tolist() == [0, 5, 7]
    assert grams.tolist() == [gram for text in texts for gram in _hash_grams([text])[0].tolist()]


@given(st.lists(st.integers(0, 3), max_size=40))
def test_places_with_equal_keys_hang_together(keys: list[int]) -> None:
    pairs = _pairs_of_equal(np.array(keys, dtype=np.uint64)).tolist()
    assert all(first < second and keys[first] == keys[second] for first, second in pairs)
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    later = {second for _, second in pairs}
    assert later == {place for place, key in enumerate(keys) if key in keys[:place]}


@given(st.lists(st.integers(0, 9), max_size=8))
def test_of_few_equal_keys_every_two_are_paired(keys: list[int]) -> None:
    pairs = {tuple(pair) for pair in _pairs_of_equal(np.array(keys, dtype=np.uint64)).tolist()}
    places = range(len(keys))
    assert pairs == {(i, j) for i in places for j in places if i < j and keys[i] == keys[j]}


def test_the_similarity_of_two_texts_is_that_of_their_sets_of_grams() -> None:
    assert measure_similarity("abcde", "abcde") == 1
    assert measure_similarity("abcde", "abcdx") == 1 / 3
    assert measure_similarity("ab", "ba") == 0
