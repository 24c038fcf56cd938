"""What rows look like as a whole: turns, lengths, scripts. Parts merge, and their size does not grow with the rows."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kivnun.data.checks.scripts import count_scripts
from kivnun.data.conversation import Conversation

EXACT_BELOW = 1024
STEPS_PER_DOUBLING = 64
_DOUBLINGS = 30


@dataclass(slots=True)
class LengthCounts:
    """How many texts have which length: exact below 1,024, and within 1.1 % above.

    Attributes:
        counts: Number of texts by step.
        total: Sum of all lengths.
        longest: The greatest length.
    """

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(EXACT_BELOW + STEPS_PER_DOUBLING * _DOUBLINGS, dtype=np.int64)
    )
    total: int = 0
    longest: int = 0

    def add(self, lengths: Sequence[int]) -> None:
        """Count some lengths."""
        if not lengths:
            return
        values = np.asarray(lengths, dtype=np.int64)
        doublings = np.log2(np.maximum(values, EXACT_BELOW) / EXACT_BELOW)
        steps = np.where(values < EXACT_BELOW, values, EXACT_BELOW + (doublings * STEPS_PER_DOUBLING).astype(np.int64))
        self.counts += np.bincount(np.minimum(steps, len(self.counts) - 1), minlength=len(self.counts))
        self.total += int(values.sum())
        self.longest = max(self.longest, int(values.max()))

    def merge(self, other: "LengthCounts") -> None:
        """Take in another part."""
        self.counts += other.counts
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    @property
    def num_texts(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> int:
        """The length that this share of the texts does not exceed; 0 where there are none."""
        if not self.num_texts:
            return 0
        rank = max(1, math.ceil(share * self.num_texts))
        step = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(_length_of(step), self.longest)

    def count_above(self, length: int) -> int:
        """How many are longer, to the accuracy of the steps."""
        lengths = np.array([_length_of(step) for step in range(len(self.counts))])
        return int(self.counts[lengths > length].sum())

    def bars(self, number: int = 24) -> list[tuple[int, int, int]]:
        """For a picture: (from, up to and without, how many), in equal steps, the longest 1 % in the last one."""
        if not self.num_texts:
            return []
        end = max(self.quantile(0.99), 1)
        width = max(1, math.ceil((end + 1) / number))
        lengths = np.array([_length_of(step) for step in range(len(self.counts))])
        bins = np.minimum(lengths // width, end // width)
        found = np.bincount(bins, weights=self.counts)
        last = len(found) - 1
        return [
            (index * width, self.longest + 1 if index == last else (index + 1) * width, int(count))
            for index, count in enumerate(found)
        ]


def _length_of(step: int) -> int:
    """The smallest length of a step."""
    if step < EXACT_BELOW:
        return step
    return math.ceil(EXACT_BELOW * 2 ** ((step - EXACT_BELOW) / STEPS_PER_DOUBLING))


@dataclass(slots=True)
class Statistics:
    """What the rows of a split look like.

    Attributes:
        turns: Number of turns by role.
        rows: Characters of whole rows.
        answers: Characters of the answers.
        scripts: Letters by script.
    """

    turns: Counter[str] = field(default_factory=Counter[str])
    rows: LengthCounts = field(default_factory=LengthCounts)
    answers: LengthCounts = field(default_factory=LengthCounts)
    scripts: Counter[str] = field(default_factory=Counter[str])

    def add(self, conversations: Sequence[Conversation]) -> list[int]:
        """Count some rows; their lengths in characters are given back."""
        texts: list[str] = []
        sizes: list[int] = []
        answers: list[int] = []
        roles: list[str] = []
        for conversation in conversations:
            size = 0
            answer = -1
            for message in conversation.messages:
                content = message.content
                size += len(content)
                texts.append(content)
                roles.append(message.role)
                if message.role == "assistant":
                    answer = len(content)
            if conversation.rejected is not None:
                texts.append(conversation.rejected.content)
                size += len(conversation.rejected.content)
            sizes.append(size)
            if answer >= 0:
                answers.append(answer)
        self.turns.update(roles)
        self.rows.add(sizes)
        self.answers.add(answers)
        self.scripts.update(count_letters(texts))
        return sizes

    def merge(self, other: "Statistics") -> None:
        """Take in another part."""
        self.turns.update(other.turns)
        self.rows.merge(other.rows)
        self.answers.merge(other.answers)
        self.scripts.update(other.scripts)

    def summary(self) -> dict[str, object]:
        """The figures as plain values."""
        return {
            "rows": self.rows.num_texts,
            "turns": dict(self.turns.most_common()),
            "row_characters": summarise_lengths(self.rows),
            "answer_characters": summarise_lengths(self.answers),
            "scripts": dict(self.scripts.most_common()),
        }


def summarise_lengths(lengths: LengthCounts) -> dict[str, int]:
    """Sum, 5 %, middle, 95 % and greatest."""
    quantiles = {f"p{round(100 * share)}": lengths.quantile(share) for share in (0.05, 0.5, 0.95)}
    return {"total": lengths.total, **quantiles, "max": lengths.longest}


def count_letters(texts: Iterable[str]) -> dict[str, int]:
    """Letters by script over many texts: every character is counted, every different one looked up once."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if not len(codes):
        return {}
    counts = np.bincount(codes)
    letters: Counter[str] = Counter()
    for code in np.flatnonzero(counts):
        for script in _scripts_of(int(code)):
            letters[script] += int(counts[code])
    return dict(letters)


@cache
def _scripts_of(code: int) -> tuple[str, ...]:
    """The script of one character, if it is a letter. The cache holds at most one entry for each character."""
    return tuple(count_scripts(chr(code)))
