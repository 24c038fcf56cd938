"""What of a text counts when two are compared: its words, whatever their case, width, points and punctuation."""

import codecs
import re
import unicodedata

_WORDS = re.compile(r"\w+")
# Hebrew points, Arabic vowel signs and characters that are not seen: the same text is written with and without them.
_OPTIONAL = (
    "\u00ad\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff"
)
# Marks that are no part of `\w` and yet of their words: accents that compose with no letter, vowels of Indic scripts.
_MARKS = (
    "\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983\u09bc-\u09cd\u0a01-\u0a03"
    "\u0a3c-\u0a51\u0a70-\u0a75\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bcd\u0c00-\u0c04"
    "\u0c3e-\u0c56\u0c81-\u0c83\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d4d\u0d81-\u0d83\u0dca-\u0ddf\u0e31\u0e34-\u0e3a"
    "\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u0f35-\u0f39\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3"
)
_SPECIAL = re.compile(f"[{_OPTIONAL}{_MARKS}]")
_DROPPED = re.compile(f"[{_OPTIONAL}]")
_MARKED_WORDS = re.compile(f"[\\w{_MARKS}]+")

# Texts of ASCII and Hebrew, points and usual punctuation included, fit into one byte a character, and bytes are
# translated several times faster than a regular expression finds words.
_POINTS = "".join(map(chr, (*range(0x5B0, 0x5BE), 0x5BF, 0x5C1, 0x5C2, 0x5C7, 0x200E, 0x200F)))
_LETTERS = "".join(map(chr, (*range(128), *range(0x5D0, 0x5EB))))
_PAGE = (_LETTERS + _POINTS + "\xa0\xab\xb7\xbb\u05be\u05f3\u05f4–—‘’“”„•₪€").ljust(256, "\ufffe")
_PAGE_CODES = codecs.charmap_build(_PAGE)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_ASCII_WORDS = "".join(chr(code).lower() if _is_word(chr(code)) else " " for code in range(128))
_PAGE_WORDS = bytes(
    (code if code >= 128 else ord(letter.lower())) if _is_word(letter) else ord(" ")
    for code, letter in enumerate(_PAGE)
)
_PAGE_POINTS = bytes(_PAGE.index(point) for point in _POINTS)


def comparable(text: str) -> str:
    """A text's words in lower case with one space between them; the stripped text itself where it has no words."""
    if text.isascii():
        return " ".join(text.translate(_ASCII_WORDS).split()) or text.strip()
    try:
        page = codecs.charmap_encode(text, "strict", _PAGE_CODES)[0]
    except UnicodeEncodeError:
        return _comparable_of_any_script(text)
    words = b" ".join(page.translate(_PAGE_WORDS, _PAGE_POINTS).split())
    # The stub of the standard library does not know decoding strings, which its own codecs use.
    return codecs.charmap_decode(words, "strict", _PAGE)[0] or text.strip()  # pyright: ignore[reportArgumentType]


def _comparable_of_any_script(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    if _SPECIAL.search(folded):
        return " ".join(_MARKED_WORDS.findall(_DROPPED.sub("", folded))) or text.strip()
    return " ".join(_WORDS.findall(folded)) or text.strip()
