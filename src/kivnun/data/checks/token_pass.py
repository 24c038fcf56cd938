"""The token checks as one pass of a stream: what they keep between batches, split by split.

Imported only where a model is named, since a tokenizer brings torch and transformers with it.
"""

from collections.abc import Iterator, Sequence

from kivnun.data.checks.tokens import TokenLimits, TokenStatistics, check_tokens, judge_tokens
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.findings import Finding


class TokenPass:
    """Checks rows with a model's tokenizer.

    Args:
        encoder: The tokenizer.
        limits: What rows are measured against.
    """

    def __init__(self, encoder: Encoder, limits: TokenLimits) -> None:
        self._encoder = encoder
        self._limits = limits
        self._splits: dict[str, TokenStatistics] = {}

    def check(
        self, conversations: Sequence[Conversation], lines: Sequence[int], file: str, split: str
    ) -> Sequence[Finding]:
        """What is wrong with some rows of a file."""
        findings, part = check_tokens(conversations, lines, file, self._encoder, self._limits)
        self._splits.setdefault(split, TokenStatistics()).merge(part)
        return findings

    def judge(self, name: str) -> Iterator[Finding]:
        """What all rows together show."""
        total = TokenStatistics()
        for part in self._splits.values():
            total.merge(part)
        yield from judge_tokens(total, name, self._encoder)

    def summary(self, split: str) -> dict[str, object]:
        """The figures of a split as plain values."""
        return self._splits.get(split, TokenStatistics()).summary()
