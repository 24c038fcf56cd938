"""Short answers to questions: equal after normalisation, or by the words they share.

Reference: Rajpurkar et al. 2016, "SQuAD: 100,000+ questions for machine comprehension of text" (arXiv:1606.05250), and
the evaluation script of SQuAD 2.0. On English in ASCII the values are those of the script. Beyond it, punctuation is
what Unicode calls so, Hebrew points and marks of direction are no part of a word, a maqaf, hyphen or dash behind a
Hebrew letter parts words (of "ב-1969" the year is a word), Chinese and Japanese characters are words of their own, and
the English articles are dropped of texts in Latin letters alone ("ויטמין A" keeps its A).
"""

import re
import string
import unicodedata
from collections import Counter

from kivnun.data.checks.scripts import main_script

_HEBREW_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_HEBREW_JOINT = re.compile(r"(?<=[\u05d0-\u05ea])[\u05be\u2010\u2011\u2013\u2014-](?=\w)")
_WITHOUT_SPACES = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = frozenset(string.punctuation)


def normalise_answer(text: str) -> str:
    """The form in which short answers are compared.

    Args:
        text: An answer or a reference.
    """
    composed = unicodedata.normalize("NFC", text).lower()
    joined = _HEBREW_JOINT.sub(" ", _HEBREW_POINTS.sub("", composed))
    kept = "".join(filter(_is_kept, joined))
    if main_script(kept) == "Latin":
        kept = _ARTICLES.sub(" ", kept)
    return " ".join(_WITHOUT_SPACES.sub(r" \g<0> ", kept).split())


def normalised_match(answer: str, reference: str) -> float:
    """1 where both are the same after normalisation, else 0.

    Args:
        answer: What was answered.
        reference: What should have been.
    """
    return float(normalise_answer(answer) == normalise_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that both have, as often as they have them; two texts without words are equal.

    Args:
        answer: What was answered.
        reference: What should have been.
    """
    given, expected = normalise_answer(answer).split(), normalise_answer(reference).split()
    if not given or not expected:
        return float(given == expected)
    shared = (Counter(given) & Counter(expected)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _is_kept(character: str) -> bool:
    category = unicodedata.category(character)
    return character not in _ASCII_PUNCTUATION and not category.startswith("P") and category != "Cf"
