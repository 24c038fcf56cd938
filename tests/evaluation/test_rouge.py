"""ROUGE-L: the reference implementation's numbers, and Hebrew that it would drop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kivnun.evaluation.rouge import rouge_l
from kivnun.evaluation.while_training import score_while_training

words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "2", "dogs"]), min_size=1, max_size=9).map(
    " ".join
)


@given(words, words)
def test_plain_english_scores_as_the_reference_implementation(answer: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert rouge_l([answer], [reference]) == expected


def test_by_hand() -> None:
    # Longest common subsequence "the cat mat": recall 3/5, precision 3/4.
    assert rouge_l(["the cat a mat"], ["the cat on the mat"]) == pytest.approx(2 * 0.6 * 0.75 / 1.35)


def test_hebrew_counts_and_its_points_do_not() -> None:
    assert rouge_l(["שלום עולם"], ["שָׁלוֹם, עולם!"]) == 1
    assert rouge_l(["שלום לך"], ["שלום עולם"]) == pytest.approx(0.5)
    assert RougeScorer(["rougeL"]).score("שלום עולם", "שלום עולם")["rougeL"].fmeasure == 0


def test_the_metrics_of_a_validation_are_those_that_were_asked_for() -> None:
    found = score_while_training(["accuracy", "rouge_l", "macro_f1"], ["joy\nmore", "fear"], ["joy", "anger"])
    assert found["accuracy"] == 0.5
    assert list(found) == ["accuracy", "rouge_l", "macro_f1"]
    assert score_while_training(["exact_match"], ["joy\nmore"], ["joy"]) == {"exact_match": 0.0}
