"""Short answers: the rules of SQuAD, and those of Hebrew and other scripts that it does not know."""

import pytest

from kivnun.evaluation.row_metrics import row_metric
from kivnun.evaluation.short_answers import normalise_answer, normalised_match, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "match", "f1"),
    [
        ("The Denver Broncos", "Denver Broncos.", 1, 1),
        ("in 1969", "1969", 0, 2 / 3),
        ("a cat sat on the mat", "the cat", 0, 0.4),
        ("gold gold", "gold", 0, 2 / 3),
        ("silver", "gold", 0, 0),
        ("", "gold", 0, 0),
        ("the", "", 1, 1),
        ("Lévi-Strauss", "levi strauss", 0, 0),
    ],
)
def test_english_is_scored_by_the_rules_of_squad(answer, reference, match, f1):
    assert normalised_match(answer, reference) == match
    assert token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("שָׁלוֹם", "שלום"),  # points
        ("בית־ספר", "בית ספר"),  # maqaf
        ("בית-ספר", "בית ספר"),
        ("תל–אביב", "תל־אביב"),  # a dash in its place
        ("צה״ל", 'צה"ל'),  # gershayim
        ("ג׳ירפה", "ג'ירפה"),  # geresh
        ("\u200fירושלים\u200f.", "ירושלים"),  # marks of direction
        ("\ufb2aר", "שר"),  # shin with its dot as one character of a presentation form
        ("„ירושלים”", "ירושלים"),
    ],
)
def test_the_same_hebrew_written_in_two_ways_is_the_same(answer, reference):
    assert normalised_match(answer, reference) == 1
    assert token_f1(answer, reference) == 1


def test_final_letters_are_letters_of_their_own():
    assert normalised_match("כתמ", "כתם") == 0


def test_a_hebrew_prefix_is_no_article_and_a_latin_letter_in_hebrew_is_none_either():
    assert normalised_match("הבית", "בית") == 0
    assert normalise_answer("ויטמין A") == "ויטמין a"
    assert normalise_answer("A vitamin") == "vitamin"


def test_a_number_or_a_name_behind_a_hebrew_prefix_is_a_word_of_its_own():
    assert token_f1("ב-1969", "1969") == pytest.approx(2 / 3)
    assert normalise_answer("חברת ה־NASA") == "חברת ה nasa"


def test_an_english_hyphen_joins_as_in_squad():
    assert normalise_answer("well-known") == "wellknown"


def test_characters_of_scripts_without_spaces_are_words():
    assert token_f1("東京都", "東京") == pytest.approx(0.8)


def test_of_several_right_answers_the_best_counts():
    assert row_metric("token_f1", "in 1969", ["1970", "1969", "the year 1969"]) == pytest.approx(2 / 3)
    assert row_metric("normalised_match", "1969", ["1970", "1969."]) == 1
