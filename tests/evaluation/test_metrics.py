import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import f1_score

from kivnun.evaluation.metrics import (
    accuracy,
    collect_labels,
    confusion_matrix,
    exact_match,
    first_line,
    is_right,
    macro_f1,
    normalize_text,
)

LABELS = ("joy", "fear", "עצב")
rows = st.lists(st.tuples(st.sampled_from((*LABELS, "nonsense", "")), st.sampled_from(LABELS)), min_size=1, max_size=60)


def test_composed_and_decomposed_characters_are_the_same_answer():
    word = "שָׁלוֹם café"
    composed, decomposed = unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)
    assert composed != decomposed
    assert is_right(decomposed, composed, task="generation")
    assert is_right(composed, decomposed, task="classification")


def test_white_space_around_an_answer_does_not_count_but_inside_it_does():
    assert is_right(" joy \n", "joy", task="generation")
    assert not is_right("j oy", "joy", task="generation")


def test_case_counts():
    assert not is_right("Joy", "joy", task="classification")


def test_classification_reads_the_first_line_and_generation_the_whole_answer():
    answer = "\n joy \nPhrase: the next one"
    assert first_line(answer) == "joy"
    assert is_right(answer, "joy", task="classification")
    assert not is_right(answer, "joy", task="generation")
    assert accuracy([answer, "fear"], ["joy", "joy"]) == 0.5
    assert exact_match([answer, "fear"], ["joy", "joy"]) == 0.0


def test_a_longer_answer_that_starts_with_the_label_is_wrong():
    assert not is_right("joyful", "joy", task="classification")


def test_an_empty_answer_has_an_empty_first_line():
    assert first_line(" \n\n") == ""


def test_macro_f1_of_a_case_counted_by_hand():
    # joy: 1 right of 2 true, 1 answered: F1 2/3. fear: 1 right of 1 true, 2 answered (one was a joy): F1 2/3.
    assert macro_f1(["joy", "fear", "fear"], ["joy", "joy", "fear"], ["joy", "fear"]) == pytest.approx(2 / 3)


def test_an_answer_outside_the_label_set_costs_recall_but_adds_no_label():
    # joy: precision 1, recall 1/2: F1 2/3. fear: 1. The invented label has no F1 of its own.
    assert macro_f1(["joy", "glee", "fear"], ["joy", "joy", "fear"], ["joy", "fear"]) == pytest.approx(5 / 6)


@given(rows)
def test_macro_f1_equals_scikit_learn_over_the_label_set(pairs):
    answers, references = zip(*pairs, strict=True)
    expected = f1_score(references, answers, labels=LABELS, average="macro", zero_division=np.nan)
    assert macro_f1(answers, references, LABELS) == pytest.approx(expected)


@given(rows)
def test_the_confusion_matrix_equals_scikit_learn_with_one_more_column(pairs):
    answers, references = zip(*pairs, strict=True)
    confusion = confusion_matrix(answers, references, LABELS)
    counts = np.array(confusion.counts)
    known = [(a, r) for a, r in pairs if a in LABELS]
    expected = sklearn_confusion_matrix([r for _, r in known], [a for a, _ in known], labels=LABELS) if known else 0
    assert (counts[:, :-1] == expected).all()
    assert counts.sum() == len(pairs)
    assert confusion.num_other == len(pairs) - len(known)
    assert confusion.columns == (*LABELS, "(other)")


def test_a_reference_outside_the_label_set_is_refused():
    with pytest.raises(ValueError, match="anger"):
        confusion_matrix(["joy"], ["anger"], LABELS)


def test_answers_and_references_of_different_number_are_refused():
    with pytest.raises(ValueError, match="zip"):
        accuracy(["joy"], ["joy", "joy"])


def test_labels_are_collected_once_in_the_form_in_which_they_are_compared():
    decomposed = unicodedata.normalize("NFD", "café")
    assert collect_labels(["joy ", "café"], [decomposed, "fear"]) == (normalize_text("café"), "fear", "joy")
