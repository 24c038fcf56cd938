"""Measures of retrieval equal scikit-learn's and tables worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from kivnun.retrieval.measures import (
    answerable_at_k,
    lexical_support,
    mrr,
    ndcg,
    rank_documents,
    recall_at_k,
)
from kivnun.retrieval.passages import Chunk, Hit

NAMES = [f"d{number}" for number in range(12)]


@given(
    st.permutations(NAMES),
    st.lists(st.integers(0, 4), min_size=12, max_size=12).filter(any),
    st.integers(1, 12),
)
def test_graded_ndcg_is_that_of_scikit_learn(ranking: list[str], grades: list[int], k: int) -> None:
    scores = [float(-ranking.index(name)) for name in NAMES]
    expected = ndcg_score(np.array([grades]), np.array([scores]), k=k)
    found = ndcg(ranking, dict(zip(NAMES, map(float, grades), strict=True)), k)
    assert found == pytest.approx(expected, abs=1e-12)


def test_ndcg_by_hand_counts_what_was_not_found() -> None:
    right = {"a": 3.0, "b": 1.0, "c": 2.0}
    gained = 1 / math.log2(2) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["b", "x", "a"], right) == pytest.approx(gained / ideal)
    assert ndcg(["x", "y"], right) == 0.0
    assert ndcg(["b", "x", "a"], right, k=1) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("ranking", "k", "recall", "reciprocal"),
    [
        (["a", "x", "b"], 1, 1 / 3, 1.0),
        (["x", "a", "b"], 3, 2 / 3, 0.5),
        (["x", "y", "c", "b", "a"], 5, 1.0, 1 / 3),
        (["x", "y"], 2, 0.0, 0.0),
        ([], 10, 0.0, 0.0),
    ],
)
def test_recall_and_the_reciprocal_rank_by_hand(ranking: list[str], k: int, recall: float, reciprocal: float) -> None:
    right = {"a": 1.0, "b": 2.0, "c": 1.0, "wrong": 0.0}
    assert recall_at_k(ranking, right, k) == pytest.approx(recall)
    assert mrr(ranking, right) == pytest.approx(reciprocal)


def test_without_a_right_document_nothing_can_be_measured() -> None:
    for measure in (lambda: recall_at_k(["a"], {"a": 0.0}, 1), lambda: mrr(["a"], {}), lambda: ndcg(["a"], {})):
        with pytest.raises(ValueError, match="no right document"):
            measure()


@pytest.mark.parametrize(
    ("answer", "passage", "expected"),
    [
        ("308 points", "The defence gave up 308   Points.", 1.0),
        ("12", "There were 312 of them.", 0.0),
        ("12", "There were 312 of them, and 12 others.", 1.0),
        ("art", "An artist came.", 0.0),
        ('צה"ל', "חיילי צה״ל הגיעו", 1.0),
        ("שָׁלוֹם", "אמר שלום והלך", 1.0),
        ("$5", "It costs $5.", 1.0),
    ],
)
def test_an_answer_stands_in_a_passage_word_for_word(answer: str, passage: str, expected: float) -> None:
    assert answerable_at_k([passage], [answer], 1) == expected
    assert answerable_at_k(["another", passage], ["", answer], 1) == 0.0
    assert answerable_at_k(["another", passage], ["", answer], 2) == expected


def test_without_an_answer_it_cannot_be_looked_for() -> None:
    with pytest.raises(ValueError, match="no answer"):
        answerable_at_k(["a"], ["", " "], 1)


def test_documents_stand_where_their_best_passage_does() -> None:
    hits = [Hit(Chunk(name, number, 0, 1, "x"), 1.0) for name, number in (("b", 3), ("a", 0), ("b", 0), ("c", 1))]
    assert rank_documents(hits) == ["b", "a", "c"]


def test_lexical_support_is_the_share_of_the_answers_words_that_stand_in_the_passages() -> None:
    passages = ["Cats eat fish.", "They sleep all day."]
    assert lexical_support("Cats eat fish [1].", passages) == 1.0
    assert lexical_support("Cats eat mice [1][2]", passages) == pytest.approx(2 / 3)
    assert lexical_support("Dogs bark", passages) == 0.0
    assert lexical_support("[1]", passages) == 1.0
