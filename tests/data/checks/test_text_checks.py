"""Texts that came through their encodings damaged are named; ordinary texts of any language pass."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talks import ask, codes, message

from kivnun.data.checks.text import ascii_marks, check_text, looks_clean

GOOD = [
    "Plain words, 100% fine: a\tb\r\nc — “quoted” … €5 £3 20 °C ½",
    "שלום עולם! צה״ל, ג׳ירפה, מחיר: 20 ₪ – זול",
    "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם",
    "Ça coûte 20 € — l’été dernier, «à Paris»; NAÏVE ÂGE",
    "Äpfel für Ömer, „Spaß“, CAFÉ—BAR, ÎLE",
    "NÃO, AÇÃO; É—",
    "Привет, мир! IT-компания в Хайфе",
    "Η καλημέρα του κόσμου, 5 μm, β-carotene, ΔT, kΩ",
    "مُحَمَّد يكتب",
    "你好，世界。こんにちは",
    "नमस्ते क्‍ष",
    "Tiếng Việt rất đẹp",
    "👨‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️",
    "می‌خواهم",
    "left \u200e mark \u200f right",
    "3×4, 5×“six”, 2×—",
    "קופסה 3×4 ב־20€",
    "ך ם ן ף ץ",
    "הילדים הולכים הביתה עם אבאם ןכן",
]


@pytest.mark.parametrize("text", GOOD)
def test_ordinary_texts_pass(text: str) -> None:
    assert check_text([("here", text)]) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a\0b", "text-nul"),
        ("a\x07b", "text-control"),
        ("a\x1b[31mb", "text-control"),
        ("a\x7fb", "text-control"),
        ("a\x93b\x94", "text-control"),
        ("a\u200bb", "text-invisible"),
        ("\ufeffHello", "text-invisible"),
        ("a\u202eb", "text-invisible"),
        ("a\u2066b\u2069", "text-invisible"),
        ("so\xadft", "text-invisible"),
        ("a\u200db", "text-invisible"),
        ("של\u200dום", "text-invisible"),
        ("hello\U000e0041\U000e0042", "text-invisible"),
        ("lost \ufffd here", "text-replacement"),
        ("cafe\u0301", "text-not-normal"),
        ("10 \u212b", "text-not-normal"),
        ("p\u0430ypal", "text-confusable"),
        ("P\u0391YPAL", "text-confusable"),
        ("\u041cо\u0441o\u043a\u0432\u0430", "text-confusable"),
        ("םולש םלוע", "hebrew-visual-order"),
        ("םויה בוט", "hebrew-visual-order"),
        ("\ufb2aלום", "hebrew-presentation-forms"),
    ],
)
def test_each_kind_of_damage_is_named_alone(text: str, wrong: str) -> None:
    assert codes(ask(text)) == [wrong]
    assert codes(ask("Well?", f"{text} etc.")) == [wrong]


WORDS = ["café", "Müller", "señor", "it’s", "“so”", "–", "€", "20 °C", "100 £", "你好", "🎉", "naïve", "Dvořák", "šest"]


def misread(text: str, encoding: str) -> str:
    """Text whose UTF-8 was read as another encoding; bytes that it lacks become control characters."""
    pieces = (bytes([byte]) for byte in text.encode())
    return "".join(piece.decode(encoding, "ignore") or chr(piece[0]) for piece in pieces)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("word", [*WORDS, "שלום", "Привет", "مرحبا", "Καλημέρα"])
def test_utf8_that_was_read_as_a_western_encoding_is_named(word: str, encoding: str) -> None:
    assert codes(ask(f"a {misread(word, encoding)} b")) == ["text-mojibake"]


@pytest.mark.parametrize("word", ["שלום", "מה נשמע היום", "it’s", "“so”", "20 €", "10 ₪", "א – ב"])
def test_utf8_that_was_read_as_the_hebrew_encoding_is_named(word: str) -> None:
    assert codes(ask(f"a {misread(word, 'cp1255')} b")) == ["text-mojibake"]


@given(st.text(alphabet=st.characters(min_codepoint=0x5D0, max_codepoint=0x5EA), min_size=2), st.booleans())
def test_any_hebrew_word_that_was_misread_is_named(word: str, western: bool) -> None:
    damaged = misread(word, "cp1252" if western else "cp1255")
    assert "text-mojibake" in codes(ask(f"a {damaged} b"))


@given(st.text(alphabet=st.characters(min_codepoint=0x591, max_codepoint=0x5EA), max_size=40))
def test_no_order_of_hebrew_points_is_a_fault(text: str) -> None:
    assert "text-not-normal" not in codes(ask(f"x{text}"))


@given(st.text(max_size=60))
def test_composed_text_is_never_called_uncomposed(text: str) -> None:
    assert "text-not-normal" not in codes(ask(f"x{unicodedata.normalize('NFC', text)}"))


@given(st.text(max_size=80) | st.sampled_from(GOOD))
def test_the_quick_look_lets_nothing_pass_that_a_full_look_finds(text: str) -> None:
    assert not (looks_clean(text, ascii_marks(text)) and check_text([("here", text)]))


@pytest.mark.parametrize(
    "text", ["Plain words.", "שלום, מה נשמע?", "Ça va très bien, naïve", "Привет, мир!", "你好，世界。"]
)
def test_the_quick_look_knows_ordinary_texts(text: str) -> None:
    assert looks_clean(text, ascii_marks(text))


def test_a_message_names_the_character_its_place_and_how_many_there_are() -> None:
    said = message(ask("ab\u200bc\u200b"), "text-invisible")
    assert said == "turn 1 (user): U+200B ZERO WIDTH SPACE at character 3, 2 in all"
    assert message(ask("a\0"), "text-nul") == "turn 1 (user): U+0000 at character 2"


def test_a_message_shows_what_is_damaged() -> None:
    said = message(ask("au cafÃ© noir"), "text-mojibake")
    assert said == "turn 1 (user): `au cafÃ© noir` looks like UTF-8 that was read as another encoding"
    assert message(ask("p\u0430ypal"), "text-confusable") == (
        "turn 1 (user): `p\u0430ypal` holds U+0430 CYRILLIC SMALL LETTER A"
    )
    assert message(ask("cafe\u0301"), "text-not-normal") == (
        "turn 1 (user): U+0065 U+0301 in `cafe\u0301`; NFC writes U+00E9"
    )
    assert message(ask("םולש םלוע"), "hebrew-visual-order") == (
        "turn 1 (user): 2 of 2 words begin with a final letter, such as `םולש`"
    )


def test_one_slip_in_a_hebrew_text_is_not_visual_order() -> None:
    assert codes(ask("הילדים הולכים ןכן הביתה")) == []


def test_the_arguments_of_calls_and_the_rejected_answer_are_read() -> None:
    from talks import WEATHER, calls, talk, turn

    row = talk(("user", "Well?"), calls(("1", "get_weather", '{"city": "a\u200bb"}')), tools=(WEATHER,))
    said = message(row, "text-invisible")
    assert said == "turn 2, call of `get_weather`: U+200B ZERO WIDTH SPACE at character 12"
    assert codes(ask("Well?", rejected=turn("assistant", "a\ufffd", trained=False))) == ["text-replacement"]
