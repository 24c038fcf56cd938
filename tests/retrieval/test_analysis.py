import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.retrieval.analysis import LONGEST_WORD, NGRAM, STOP_WORDS, analyse, search_form

HEBREW = st.text("אבגדהוזחטיכךלמםנןסעפףצץקרשת", min_size=1, max_size=12)


def test_english_words_are_stemmed_and_the_commonest_ones_dropped():
    assert analyse("The runners were running, and it is the economy's RUN.") == ["runner", "run", "economi", "run"]


def test_query_and_document_meet_whatever_their_capitals_accents_and_width():
    assert analyse("Café NAÏVE ﬁnal ＡＢＣ") == analyse("cafe naive final abc")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,000,000", ["1000000"]),
        ("3.14", ["3.14"]),
        ("GPT-4", ["gpt-4", "gpt", "4"]),
        ("user_id", ["user_id", "user", "id"]),
        ("x86", ["x86"]),
        ("well-known", ["well", "known"]),
        ("U.S.A.", ["usa"]),
        ("١٢٣", ["123"]),
        ("file.txt:12", ["file.txt:12", "file", "txt", "12"]),
        ("--- ... !!!", []),
    ],
)
def test_numbers_and_codes_stay_whole(text, words):
    assert analyse(text) == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("בְּרֵאשִׁית", "בראשית"),
        ("\ufb2aלום", "שלום"),
        ('צה"ל', "צה״ל"),
        ("צה״ל", "צה”ל"),
        ("ג'ירפה", "ג׳ירפה"),
        ("תל־אביב", "תל-אביב"),
        ("\u202bשלום\u202c\u200f", "שלום"),
        ("أحمد", "احمد"),
        ("العَرَبِيّة", "العربيه"),
        ("кот", "КОТ"),
    ],
)
def test_what_is_written_in_two_ways_gives_the_same_words(one, other):
    assert analyse(one) == analyse(other) != []


def test_points_are_taken_off_but_not_the_hyphen_among_them():
    assert search_form("אֶ־בּ׀ג׃") == "א-ב׀ג׃"
    assert analyse("בית־ספר") == analyse("בית ספר")


def test_a_hebrew_word_is_found_behind_its_prefixes():
    assert set(analyse("אוניברסיטה")) < set(analyse("ובאוניברסיטה")) | {"אוניברסיטה"}
    assert "אוני" in analyse("שבאוניברסיטאות")


@given(HEBREW)
def test_a_hebrew_word_gives_itself_and_every_run_of_four_letters(word):
    runs = [word[start : start + NGRAM] for start in range(len(word) - NGRAM + 1)]
    assert analyse(word) == [word, *(runs if len(word) > NGRAM else [])]


def test_scripts_without_spaces_give_pairs_of_letters():
    assert analyse("東京都") == ["東京", "京都"]
    assert analyse("水") == ["水"]
    assert analyse("ภาษา") == ["ภา", "าษ", "ษา"]


def test_a_text_of_several_scripts_is_cut_between_them():
    assert analyse("ב-Python3ו東京") == ["ב", "python3", "ו", "東京"]


def test_vowel_signs_do_not_cut_indian_words():
    assert analyse("हिन्दी")[0] == "हिन्दी"


def test_order_and_repetition_stay():
    assert analyse("dogs cats dogs") == ["dog", "cat", "dog"]


def test_a_wall_of_letters_gives_one_short_word():
    assert analyse("A" * 100_000) == ["a" * LONGEST_WORD]


def test_only_words_of_the_list_are_dropped():
    assert analyse(" ".join(sorted(STOP_WORDS))) == []
    assert analyse("the US and us") == ["us", "us"]


@given(st.text())
def test_words_are_bounded_and_hold_no_space(text):
    words = analyse(text)
    assert all(word and len(word) <= LONGEST_WORD and not any(map(str.isspace, word)) for word in words)


@given(st.text())
def test_the_search_form_of_a_search_form_is_itself(text):
    assert search_form(search_form(text)) == search_form(text)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1))
def test_letters_and_digits_are_never_lost_but_for_stop_words(text):
    form = search_form(text)
    kept = set("".join(analyse(text)))
    if form.casefold() not in STOP_WORDS and len(form) <= LONGEST_WORD and not form.isascii():
        assert kept or all(unicodedata.category(letter)[0] not in "LN" for letter in form)


def test_threads_do_not_disturb_each_others_words():
    words = [f"{stem}{ending}" for stem in ("walk", "jump", "paint", "load") for ending in ("ing", "ed", "s", "er")]
    texts = [f"{word}x{number}y {word}" for number in range(200) for word in words]
    found: list[list[list[str]]] = []
    threads = [threading.Thread(target=lambda: found.append(list(map(analyse, texts)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == found[0] for one in found)
    assert [text[-1] for text in found[0]] == [analyse(text)[-1] for text in texts]
