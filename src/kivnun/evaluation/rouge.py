"""ROUGE-L with words of every script: the reference implementation, but for its tokenizer, which drops Hebrew."""

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from kivnun.data.duplicates.words import comparable


class _Words(Tokenizer):
    """Words in lower case; points, vowel signs and punctuation are no part of them."""

    def tokenize(self, text: str) -> list[str]:
        return comparable(text).split()


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of words (Lin 2004, ROUGE-L), from 0 to 1, without stemming.

    Args:
        answers: What was answered; at least one.
        references: What should have been.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(answers, references, strict=True)
    scores = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs]
    return sum(scores) / len(scores)
