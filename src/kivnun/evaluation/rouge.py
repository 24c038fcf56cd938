"""ROUGE with words of every script: the reference implementation, but for its tokenizer, which drops Hebrew."""

from collections.abc import Sequence
from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from kivnun.data.duplicates.words import comparable

ROUGE_TYPES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
"""Our names, and those of the reference implementation; the sentences of ROUGE-Lsum are the lines of a text."""


class _Words(Tokenizer):
    """Words in lower case; points, vowel signs and punctuation are no part of them."""

    def tokenize(self, text: str) -> list[str]:
        return comparable(text).split()


@cache
def _scorer(name: str) -> RougeScorer:
    return RougeScorer([ROUGE_TYPES[name]], tokenizer=_Words())


def rouge(name: str, answer: str, reference: str) -> float:
    """F1 of one answer (Lin 2004), from 0 to 1, without stemming.

    Args:
        name: A key of `ROUGE_TYPES`.
        answer: What was answered.
        reference: What should have been.
    """
    return float(_scorer(name).score(reference, answer)[ROUGE_TYPES[name]].fmeasure)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of words (Lin 2004, ROUGE-L), from 0 to 1, without stemming.

    Args:
        answers: What was answered; at least one.
        references: What should have been.
    """
    scores = [rouge("rouge_l", answer, reference) for answer, reference in zip(answers, references, strict=True)]
    return sum(scores) / len(scores)
