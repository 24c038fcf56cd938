"""Measures of retrieval, one value for each query: what share of the right documents is found, and how high.

A ranking is a list of document ids, best first, each once. Reference: Manning, Raghavan & Schütze 2008, "Introduction
to Information Retrieval", chapter 8; nDCG: Järvelin & Kekäläinen 2002, with gains as they are and log2 of rank + 1.
"""

import math
import re
from collections.abc import Mapping, Sequence

from kivnun.retrieval.analysis import analyse, search_form
from kivnun.retrieval.passages import Hit

CITATION = re.compile(r"\[(\d+(?:\s*[,;]\s*\d+)*)\]")
"""Numbers of passages in an answer: `[2]` or `[1, 3]`."""
_SPACE = re.compile(r"\s+")


def recall_at_k(ranking: Sequence[str], relevant: Mapping[str, float], k: int) -> float:
    """The share of the right documents that stand among the first `k`.

    Args:
        ranking: Document ids, best first.
        relevant: Grade of each right document; those of 0 or less are wrong ones.
        k: How far is looked.

    Raises:
        ValueError: There is no right document.
    """
    right = _require_right(relevant)
    return len(right & set(ranking[:k])) / len(right)


def mrr(ranking: Sequence[str], relevant: Mapping[str, float]) -> float:
    """One over the rank of the first right document; 0 where none was found.

    Args:
        ranking: Document ids, best first.
        relevant: Grade of each right document.

    Raises:
        ValueError: There is no right document.
    """
    right = _require_right(relevant)
    return next((1 / rank for rank, name in enumerate(ranking, start=1) if name in right), 0.0)


def ndcg(ranking: Sequence[str], relevant: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first `k`, graded.

    Args:
        ranking: Document ids, best first.
        relevant: Grade of each right document.
        k: How far is looked.

    Raises:
        ValueError: There is no right document.
    """
    _require_right(relevant)
    gains = [max(relevant.get(name, 0.0), 0.0) for name in ranking[:k]]
    ideal = sorted((max(grade, 0.0) for grade in relevant.values()), reverse=True)[:k]
    return _discounted(gains) / _discounted(ideal)


def answerable_at_k(passages: Sequence[str], answers: Sequence[str], k: int) -> float:
    """1 where an answer stands word for word in one of the first `k` passages, else 0.

    Args:
        passages: Texts, best first.
        answers: Answers that are right; capitals, points and kinds of quotes do not matter, empty ones are left out.
        k: How far is looked.

    Raises:
        ValueError: There is no answer.
    """
    wanted = [form for form in map(_plain_form, answers) if form]
    if not wanted:
        raise ValueError("there is no answer to look for")
    texts = [_plain_form(passage) for passage in passages[:k]]
    return float(any(_stands_in(answer, text) for answer in wanted for text in texts))


def rank_documents(hits: Sequence[Hit]) -> list[str]:
    """Documents in the order of their best passage."""
    return list(dict.fromkeys(hit.chunk.document for hit in hits))


def lexical_support(answer: str, passages: Sequence[str]) -> float:
    """The share of an answer's different search words that stand in the passages; 1 for an answer without words.

    It says whether the words are there, not whether the passages say what the answer says.

    Args:
        answer: The answer; citations such as [1] do not count.
        passages: What it should rest on.
    """
    words = set(analyse(CITATION.sub(" ", answer)))
    found = {word for passage in passages for word in analyse(passage)}
    return len(words & found) / len(words) if words else 1.0


def _require_right(relevant: Mapping[str, float]) -> set[str]:
    right = {name for name, grade in relevant.items() if grade > 0}
    if not right:
        raise ValueError("there is no right document to look for")
    return right


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _plain_form(text: str) -> str:
    return _SPACE.sub(" ", search_form(text)).strip()


def _stands_in(answer: str, text: str) -> bool:
    """Whether an answer stands in a text with no letter or digit beside it: 12 does not stand in 312."""
    start = text.find(answer)
    while start >= 0:
        before, after = text[start - 1 : start], text[start + len(answer) :][:1]
        if not (before.isalnum() and answer[:1].isalnum()) and not (after.isalnum() and answer[-1:].isalnum()):
            return True
        start = text.find(answer, start + 1)
    return False
