"""Search words: what a text is found by, for documents and queries alike.

What helps depends on the script. English words are stemmed and its commonest words dropped. Words of scripts whose
languages inflect at both ends (Hebrew, Arabic, Cyrillic, ...) also give their runs of four letters, which find a word
behind its prefixes (McNamee and Mayfield 2004, "Character N-Gram Tokenization for European Language Text Retrieval").
Scripts without spaces (Han, Kana, Thai, ...) give pairs of letters.
"""

import re
import threading
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from snowballstemmer import stemmer

ANALYSIS_VERSION = "1"
"""Changes whenever some text gives other words than before, so that an index made of the former is not searched."""

NGRAM = 4
LONGEST_WORD = 64
"""Letters of a longer word (base64, a row of dashes in letters) beyond these are not searched."""

_STOP_WORDS = """
    a about above after again against all am an and any are aren't as at be because been before being below between
    both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each few for from
    further had hadn't has hasn't have haven't having he her here hers herself him himself his how i i'd i'll i'm i've
    if in into is isn't it it's its itself just let's me more most mustn't my myself no nor not of off on once only or
    other ought our ours ourselves out over own same shan't she should shouldn't so some such than that that's the
    their theirs them themselves then there there's these they they'd they'll they're they've this those through to too
    under until up very was wasn't we we'd we'll we're we've were weren't what what's when where which while who whom
    why will with won't would wouldn't you you'd you'll you're you've your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""The commonest words of English, which are not searched; "us" is not among them, being a country as often."""

_APOSTROPHES = "'`´ʹʻʼʽˈ׳‘’‛′＇"
_QUOTES = '"״“”„‟″＂'
_DASHES = "‐‑‒–—―־−"
_DIGITS = {zero + digit: str(digit) for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xE50) for digit in range(10)}
# Points and accents of Hebrew; its maqaf, paseq, sof pasuq and nun hafukha are signs between words.
_POINTS = [code for code in range(0x591, 0x5C8) if code not in (0x5BE, 0x5C0, 0x5C3, 0x5C6)]
# Directions, joiners and soft hyphens; vowel signs and stretching of Arabic.
_UNSEEN = [0xAD, 0x61C, 0x640, 0x670, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
_VOWELS = [*range(0x610, 0x61B), *range(0x64B, 0x660), *range(0x6D6, 0x6DD)]
_SAME: dict[int, str] = {
    **{ord(character): "'" for character in _APOSTROPHES},
    **{ord(character): '"' for character in _QUOTES},
    **{ord(character): "-" for character in _DASHES},
    **_DIGITS,
    # Alef with and without hamza or madda, final ya and ta marbuta: written either way.
    **dict.fromkeys(map(ord, "أإآٱ"), "ا"),
    ord("ى"): "ي",
    ord("ة"): "ه",
    **dict.fromkeys([*_POINTS, *_UNSEEN, *_VOWELS], ""),
}

_LATIN = "a-zªºß-öø-ʯḀ-ỿⱠ-ⱿꜢ-ꟿ"
_ACCENTS = "\u0300-\u036f"
_PAIRED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3105-\u318e\u31f0-\u31ff"
    "\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U000323af"
)
# Vowel signs of Indian and other scripts belong to the letters beside them; `\w` leaves them out.
_LETTER = f"[^\\W_]|[{_ACCENTS}\u0483-\u0487\u0900-\u0963\u0966-\u0df3{_PAIRED}]"
_TOKEN = re.compile(f"(?:{_LETTER})+(?:[-'\".,/:_@&+](?:{_LETTER})+)*")
_ASCII_TOKEN = re.compile(r"[a-z0-9]+(?:[-'\".,/:_@&+][a-z0-9]+)*")
_PARTS = re.compile(r"[-.,/:_@&+]+")
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+")
_CODE = re.compile(f"[{_LATIN}0-9'\".,/:_@&+-]*[0-9_@][{_LATIN}0-9'\".,/:_@&+-]*")
_RUN = re.compile(f"(?P<latin>[{_LATIN}0-9{_ACCENTS}']+)|(?P<paired>[{_PAIRED}]+)|(?P<other>[^{_LATIN}0-9{_PAIRED}]+)")

_stemmer = stemmer("english")
# The stemmer keeps the word at work in itself.
_stemmer_lock = threading.Lock()


def search_form(text: str) -> str:
    """A text with everything made alike that is written in several ways, for search only: never shown or cited.

    Compatibility forms (NFKC), capitals, points and accents of Hebrew and Arabic, directions, and the several signs
    for apostrophe, geresh, gershayim, quotes and dashes.
    """
    if text.isascii():
        return text.lower().replace("`", "'")
    # Before NFKC, which takes an acute accent for a space with a mark, and after it, which makes such signs.
    folded = unicodedata.normalize("NFKC", text.translate(_SAME)).casefold()
    return unicodedata.normalize("NFKC", folded).translate(_SAME)


def analyse(text: str) -> list[str]:
    """The search words of a text in order, repeated as often as they stand there."""
    form = search_form(text)
    words: list[str] = []
    for token in (_ASCII_TOKEN if form.isascii() else _TOKEN).findall(form):
        words += _find_words(token) if len(token) <= LONGEST_WORD else _split_token(token)
    return words


@lru_cache(maxsize=1 << 17)
def _find_words(token: str) -> tuple[str, ...]:
    return tuple(_split_token(token))


def _split_token(token: str) -> Iterator[str]:
    """The words of what stands between spaces: a number or a code whole, and its parts by script."""
    if _NUMBER.fullmatch(token):
        yield token.replace(",", "")[:LONGEST_WORD]
        return
    parts = _PARTS.split(token)
    if len(parts) > 1 and all(len(part) == 1 and part.isalpha() for part in parts):
        yield "".join(parts)[:LONGEST_WORD]
        return
    if len(parts) > 1 and len(token) <= LONGEST_WORD and _CODE.fullmatch(token):
        yield token
    for part in parts:
        yield from _split_part(part)


def _split_part(part: str) -> Iterator[str]:
    for run in _RUN.finditer(part):
        if run["latin"]:
            yield from _read_latin(run["latin"])
        elif run["paired"]:
            yield from _cut_pairs(run["paired"])
        else:
            yield from _cut_ngrams(run["other"])


def _read_latin(run: str) -> Iterator[str]:
    word = run.strip("'")
    if not word or word in STOP_WORDS:
        return
    if not word.isascii():
        word = "".join(letter for letter in unicodedata.normalize("NFD", word) if not "\u0300" <= letter <= "\u036f")
    word = word[:LONGEST_WORD]
    if word.isalpha() or "'" in word:
        with _stemmer_lock:
            word = _stemmer.stemWord(word)
    if word:
        yield word


def _cut_pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for start in range(len(run) - 1):
        yield run[start : start + 2]


def _cut_ngrams(run: str) -> Iterator[str]:
    """A word, and its runs of four letters where it is longer; acronyms and quotes inside are read without the sign."""
    word = run.replace('"', "").replace("'", "")
    if not word:
        return
    yield word[:LONGEST_WORD]
    if len(word) > NGRAM:
        for start in range(len(word) - NGRAM + 1):
            yield word[start : start + NGRAM]
