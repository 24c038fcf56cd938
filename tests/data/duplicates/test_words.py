import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.duplicates import words
from kivnun.data.duplicates.words import comparable


def test_case_punctuation_and_spaces_do_not_count() -> None:
    assert comparable("  Hello,\tWORLD!\n") == comparable("hello world") == "hello world"


def test_width_and_ligatures_do_not_count() -> None:
    assert comparable("Ｆｕｌｌ ｗｉｄｔｈ ﬁsh STRASSE") == comparable("full width fish straße")


def test_hebrew_points_do_not_count_and_maqaf_parts_words() -> None:
    assert comparable("שָׁלוֹם, עוֹלָם־קָטָן!") == comparable("שלום עולם קטן") == "שלום עולם קטן"


def test_presentation_forms_of_hebrew_are_its_letters() -> None:
    assert comparable("\ufb2aלום") == comparable("שלום")


def test_signs_that_are_not_seen_do_not_part_words() -> None:
    assert comparable("ab\u200bcd e\u0301f") == "abcd éf"
    assert comparable("שלו\u200fם") == "שלום"


def test_vowels_of_indic_scripts_count() -> None:
    assert comparable("कि") != comparable("की")


def test_an_underscore_is_part_of_a_word_and_digits_are_words() -> None:
    assert comparable("snake_case; 3.14") == "snake_case 3 14"


def test_a_text_without_words_stays_itself() -> None:
    assert [comparable(text) for text in (" !!! ", "😀", "״", "")] == ["!!!", "😀", "״", ""]


@given(st.text(st.sampled_from("abc שלםַָ־״\u200f–“_9.,'\n\xa0₪"), max_size=30))
def test_hebrew_texts_are_read_the_same_way_as_texts_of_any_script(text: str) -> None:
    # A letter of a third script keeps the whole text out of the quick way.
    assert comparable(text) in {words._comparable_of_any_script(text), comparable(text + " ж").removesuffix(" ж")}
    assert comparable("ש" + text + " ж") == comparable("ש" + text) + " ж"


@given(st.text(max_size=40))
def test_making_words_comparable_twice_changes_nothing(text: str) -> None:
    once = comparable(text)
    if any(unicodedata.category(character)[0] in "LN" for character in once):
        assert comparable(once) == once
