"""Whether a text came through its encodings whole: lost, hidden, mixed-up and wrongly ordered characters."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from kivnun.data.checks.problem import Problem

_HARMLESS = bytes(byte for byte in range(32, 127) if chr(byte) not in "@{<&[#0123456789") + b"\t\n\r"


def ascii_marks(text: str) -> bytes:
    """The ASCII characters of a text that a check may ask about: digits, `@{<&[#` and control characters.

    Most texts have few of them, so that a look at them saves most of the searches in the text itself.
    """
    return text.encode("ascii", "ignore").translate(None, _HARMLESS)


# Wrong wherever it stands, or nearly; ordinary Hebrew, French or Chinese has none of these characters.
_SUSPECT = re.compile(
    "[\x80-\x9f\xad\u180e\u200b\u200d\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufb1d-\ufb4f\ufeff\ufffd"
    "\U000e0000-\U000e007f]"
)
_FINAL_FIRST = re.compile("[ךםןףץ][א-ת]")
# A Greek or Cyrillic letter beside a Latin one.
_MIXED = re.compile("[Ͱ-ӿ](?:[A-Za-z]|(?<=[A-Za-z][Ͱ-ӿ]))")


def looks_clean(text: str, marks: bytes) -> bool:
    """Whether a text, with its `ascii_marks`, surely passes `check_text`; a quick look for most texts."""
    if marks and (min(marks) < 32 or max(marks) > 126):
        return False
    if text.isascii():
        return True
    if not unicodedata.is_normalized("NFC", text):
        return False
    return not (_SUSPECT.search(text) or _MOJIBAKE.search(text) or _MIXED.search(text) or _FINAL_FIRST.search(text))


def check_text(texts: Sequence[tuple[str, str]]) -> list[Problem]:
    """What is wrong with the characters of a row's texts.

    Args:
        texts: Each text behind the words that say where in the row it stands.
    """
    problems: list[Problem] = []
    for code, find in _FINDERS:
        for where, text in texts:
            found = find(text)
            if found:
                problems.append((code, f"{where}: {found}"))
                break
    return problems


_NUL = re.compile("\0")
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_REPLACEMENT = re.compile("\ufffd")
_PRESENTATION = re.compile("[\ufb1d-\ufb4f]")
# Joiners between emoji and in Indic and Arabic scripts, direction marks (U+200E, U+200F) and the joiner's opposite
# (U+200C) are proper spelling; tags are proper in flags, behind a black flag.
_INVISIBLE = re.compile(
    "[\xad\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\u180e\ufeff]"
    "|(?<=[A-Za-zא-ת])\u200d|(?<![\U0001f3f4\U000e0000-\U000e007f])[\U000e0000-\U000e007f]"
)
# Points of Hebrew and Arabic: NFC only sorts them, and the order in which they are typed is as good.
_POINTS = re.compile("[\u0591-\u05c7\u064b-\u0652\u0670\ufb1d-\ufb4f]")


def _named(pattern: re.Pattern[str]) -> Callable[[str], str]:
    """A finder of characters by a pattern: it names the first and counts the others."""

    def find(text: str) -> str:
        found = pattern.findall(text)
        if not found:
            return ""
        name = unicodedata.name(found[0], "")
        first = f"U+{ord(found[0]):04X}{f' {name}' if name else ''} at character {text.index(found[0]) + 1}"
        return first if len(found) == 1 else f"{first}, {len(found)} in all"

    return find


def _find_control(text: str) -> str:
    """Control characters that are not halves of wrongly decoded letters, which `text-mojibake` reports."""
    return "" if _find_mojibake(text) else _named(_CONTROL)(text)


def _find_invisible(text: str) -> str:
    """Invisible characters that are not halves of wrongly decoded letters, as soft hyphens may be."""
    return "" if _find_mojibake(text) else _named(_INVISIBLE)(text)


def _find_not_normal(text: str) -> str:
    if unicodedata.is_normalized("NFC", text):
        return ""
    plain = _POINTS.sub("", text)
    composed = unicodedata.normalize("NFC", plain)
    if composed == plain:
        return ""
    pairs = enumerate(zip(plain, composed, strict=False))
    place = next((number for number, (left, right) in pairs if left != right), 0)
    was = " ".join(f"U+{ord(character):04X}" for character in plain[place : place + 2])
    return f"{was} in `{_quoted(plain, place)}`; NFC writes U+{ord(composed[place]):04X}"


_SYMBOL = "[\xa1-\xaa\xac-\xba\xbc-\xbf]"
_C1252 = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_C1255 = "[\x80-\xbf€‚ƒ„…†‡ˆ‰‹‘’“”•–—˜™›₪×÷]"
# Two bytes of UTF-8 are a Latin letter or sign (one is enough, where a sign follows that never follows that letter), or
# a Greek, Cyrillic, Hebrew or Arabic letter (two in a row are asked for); three and four bytes have tell-tale starts.
_MOJIBAKE = re.compile(
    "[ÂÃÄÅÎÏÐÑ×ØÙà-íðïג׳\u05b2\u05b3](?:"
    f"(?<=Â)[\xa0-\xbf]|(?<=[ÃÄÅ]){_SYMBOL}|(?<=Ã)[\x80-\x9f«€‚ƒ„†‡ˆ‰Š‹ŒŽ•˜™š›œžŸ]"
    f"|(?<=[ÎÏ]){_C1252}[ÎÏ]{_C1252}|(?<=[ÐÑ]){_C1252}[ÐÑ]{_C1252}"
    f"|(?<=×){_C1252}×{_C1252}|(?<=[ØÙ]){_C1252}[ØÙ]{_C1252}"
    f"|(?<=[à-í]){_C1252}{{2}}[à-í]{_C1252}{{2}}|(?<=â)[\x80-\x9f€‚„†ˆœžŸ]{_C1252}|(?<=ð)[\x9fŸ]|(?<=ï)(?:»¿|¿½)"
    f"|(?<=׳)(?:{_C1255}׳|׳{_C1255})|(?<=ג)[€‚„]{_C1255}|(?<=[\u05b2\u05b3]){_SYMBOL})"
)


def _find_mojibake(text: str) -> str:
    found = _MOJIBAKE.search(text)
    if found is None:
        return ""
    return f"`{_quoted(text, found.start())}` looks like UTF-8 that was read as another encoding"


_WORD = re.compile("[A-Za-zÀ-ʯͰ-ӿ]+")
_LATIN_TWINS = frozenset("aceijlopsuxyABCEHIJKMNOPSTXYZ")
_OTHER_TWINS = frozenset("АВЕЅІЈКМНОРСТУХЗаеорсухіјѕһԛԝӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϲϳ")


def _find_confusable(text: str) -> str:
    """A word whose letters of one script all look like letters of the word's other script."""
    if _MIXED.search(text) is None:
        return ""
    for word in filter(_MIXED.search, _WORD.findall(text)):
        others = [character for character in word if character > "ʯ"]
        latin = [character for character in word if character < "ɐ"]
        twins = others if _OTHER_TWINS.issuperset(others) else latin
        if twins is others or (_LATIN_TWINS.issuperset(latin) and len(others) > 2):
            named = ", ".join(f"U+{ord(letter):04X} {unicodedata.name(letter, '')}" for letter in twins[:2])
            return f"`{word[:40]}` holds {named}"
    return ""


_HEBREW_WORD = re.compile("[א-ת][א-ת\"'״׳]*[א-ת]")
_FINALS = "ךםןףץ"
_VISUAL_SHARE = 0.05


def _find_visual_order(text: str) -> str:
    if _FINAL_FIRST.search(text) is None:
        return ""
    words = _HEBREW_WORD.findall(text)
    first = [word for word in words if word[0] in _FINALS]
    last = sum(word[-1] in _FINALS for word in words)
    if len(first) <= last or len(first) < _VISUAL_SHARE * len(words):
        return ""
    return f"{len(first)} of {len(words)} words begin with a final letter, such as `{first[0][:40]}`"


def _quoted(text: str, place: int) -> str:
    """A text around a place, for a message."""
    return " ".join(text[max(0, place - 10) : place + 20].split())


_FINDERS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("text-nul", _named(_NUL)),
    ("text-control", _find_control),
    ("text-invisible", _find_invisible),
    ("text-replacement", _named(_REPLACEMENT)),
    ("text-mojibake", _find_mojibake),
    ("text-not-normal", _find_not_normal),
    ("text-confusable", _find_confusable),
    ("hebrew-visual-order", _find_visual_order),
    ("hebrew-presentation-forms", _named(_PRESENTATION)),
)
