"""Letters are counted by the writing system that they belong to."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.checks.scripts import count_scripts, main_script


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Good morning", "Latin"),
        ("Ça déjà vu", "Latin"),
        ("שָׁלוֹם עולם", "Hebrew"),
        ("مرحبا", "Arabic"),
        ("Привет", "Cyrillic"),
        ("Καλημέρα", "Greek"),
        ("你好", "Han"),
        ("こんにちは", "Hiragana"),
        ("안녕하세요", "Hangul"),
        ("नमस्ते", "Devanagari"),
        ("สวัสดี", "Thai"),
        ("ሰላም", "Ethiopic"),
        ("გამარჯობა", "Georgian"),
        ("Բարեւ", "Armenian"),
        ("𐌰𐌱", "Other"),
        ("12:30 :-) ₪5 🎉", ""),
        ("", ""),
    ],
)
def test_the_main_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script


def test_only_letters_count_so_that_points_digits_and_signs_belong_to_no_script() -> None:
    assert count_scripts("שָׁלוֹם, Dana! 123") == {"Hebrew": 4, "Latin": 4}


def test_the_commonest_script_comes_first() -> None:
    assert list(count_scripts("ab שלום")) == ["Hebrew", "Latin"]


@given(st.text())
def test_every_letter_is_counted_once(text: str) -> None:
    letters = sum(unicodedata.category(character).startswith("L") for character in text)
    assert sum(count_scripts(text).values()) == letters


@given(st.text(), st.text())
def test_counts_of_a_joined_text_are_the_sums_of_its_parts(left: str, right: str) -> None:
    first, second, both = count_scripts(left), count_scripts(right), count_scripts(left + right)
    assert both == {script: first.get(script, 0) + second.get(script, 0) for script in {**first, **second}}


@given(st.text(alphabet=st.characters(min_codepoint=0x5D0, max_codepoint=0x5EA), min_size=1))
def test_hebrew_letters_are_hebrew(text: str) -> None:
    assert count_scripts(text) == {"Hebrew": len(text)}


@given(st.text(st.sampled_from("abcé àשלוםןَعقд漢①—1 "), max_size=30))
def test_the_quick_count_of_the_main_script_is_the_slow_one(text: str) -> None:
    assert main_script(text) == next(iter(count_scripts(text)), "")
