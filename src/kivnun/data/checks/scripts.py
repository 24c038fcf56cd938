"""Which writing systems a text uses, letter by letter."""

from bisect import bisect_right
from collections import Counter
from functools import lru_cache

# Blocks of letters by their first and last code points (Unicode 16, Blocks.txt and Scripts.txt).
_BLOCKS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "Latin"),
    (0x0250, 0x02AF, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0531, 0x0588, "Armenian"),
    (0x05D0, 0x05F2, "Hebrew"),
    (0x0600, 0x06FF, "Arabic"),
    (0x0700, 0x074F, "Syriac"),
    (0x0750, 0x077F, "Arabic"),
    (0x0780, 0x07BF, "Thaana"),
    (0x0860, 0x086F, "Syriac"),
    (0x0870, 0x08FF, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0A00, 0x0A7F, "Gurmukhi"),
    (0x0A80, 0x0AFF, "Gujarati"),
    (0x0B00, 0x0B7F, "Oriya"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0C80, 0x0CFF, "Kannada"),
    (0x0D00, 0x0D7F, "Malayalam"),
    (0x0D80, 0x0DFF, "Sinhala"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Lao"),
    (0x0F00, 0x0FFF, "Tibetan"),
    (0x1000, 0x109F, "Myanmar"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1200, 0x139F, "Ethiopic"),
    (0x13A0, 0x13FF, "Cherokee"),
    (0x1780, 0x17FF, "Khmer"),
    (0x1800, 0x18AF, "Mongolian"),
    (0x1C80, 0x1C8F, "Cyrillic"),
    (0x1C90, 0x1CBF, "Georgian"),
    (0x1D00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x2C60, 0x2C7F, "Latin"),
    (0x2D00, 0x2D2F, "Georgian"),
    (0x2D80, 0x2DDF, "Ethiopic"),
    (0x2DE0, 0x2DFF, "Cyrillic"),
    (0x3005, 0x3007, "Han"),
    (0x3041, 0x309F, "Hiragana"),
    (0x30A1, 0x30FF, "Katakana"),
    (0x3105, 0x312F, "Bopomofo"),
    (0x3131, 0x318E, "Hangul"),
    (0x31F0, 0x31FF, "Katakana"),
    (0x3400, 0x9FFF, "Han"),
    (0xA640, 0xA69F, "Cyrillic"),
    (0xA720, 0xA7FF, "Latin"),
    (0xAB30, 0xAB6F, "Latin"),
    (0xAC00, 0xD7FB, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0xFB00, 0xFB06, "Latin"),
    (0xFB13, 0xFB17, "Armenian"),
    (0xFB1D, 0xFB4F, "Hebrew"),
    (0xFB50, 0xFDFF, "Arabic"),
    (0xFE70, 0xFEFC, "Arabic"),
    (0xFF21, 0xFF5A, "Latin"),
    (0xFF66, 0xFF9F, "Katakana"),
    (0xFFA0, 0xFFDC, "Hangul"),
    (0x20000, 0x323AF, "Han"),
)
_FIRSTS = [first for first, _, _ in _BLOCKS]
_NO_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_NO_HEBREW_LETTERS = bytes(byte for byte in range(256) if not 0xE0 <= byte <= 0xFA)


def count_scripts(text: str) -> dict[str, int]:
    """The letters of each script in a text, the commonest script first.

    Digits, signs, vowel points and white space belong to no script. Letters of scripts without a name here are "Other".
    """
    counts: Counter[str] = Counter()
    latin = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    if latin:
        counts["Latin"] = latin
    if not text.isascii():
        for character, number in Counter(text).items():
            script = "" if character.isascii() else _script_of(character)
            if script:
                counts[script] += number
    return dict(counts.most_common())


def main_script(text: str) -> str:
    """The script of most letters of a text; "" where it has no letters."""
    # Bytes are counted many times faster than letters are looked up. What ISO 8859-8 has no place for may be letters of
    # any script, Latin ones with accents among them: where they all could not change the outcome, it is certain.
    latin = len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    page = text.encode("iso8859_8", "ignore")
    hebrew, unknown = len(page.translate(None, _NO_HEBREW_LETTERS)), len(text) - len(page)
    if latin > hebrew + unknown:
        return "Latin"
    if hebrew > latin + unknown:
        return "Hebrew"
    return next(iter(count_scripts(text)), "")


@lru_cache(maxsize=1 << 14)
def _script_of(character: str) -> str:
    """The script of a letter, or "" for what is no letter."""
    if not character.isalpha():
        return ""
    code = ord(character)
    place = bisect_right(_FIRSTS, code) - 1
    _, last, script = _BLOCKS[place]
    return script if code <= last else "Other"
