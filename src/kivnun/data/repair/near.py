"""Pairs of rows that are nearly the same, proved by their texts."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.data.duplicates.fingerprint import Fingerprints
from kivnun.data.duplicates.groups import connect, pair_rows
from kivnun.data.duplicates.minhash import MIN_CHARACTERS, measure_similarity

LARGE_GROUP = 20
_MIN_FRAME_WORDS = 4
# Signatures estimate; what they make out as somewhat less alike is measured too.
_SLACK = 0.1


@dataclass(frozen=True, slots=True)
class RowText:
    """What of a row is compared: comparable words of its input and of its answer."""

    input: str
    answer: str


ReadTexts = Callable[[NDArray[np.int64]], Mapping[int, RowText]]
"""The texts of some rows, by their place."""


@dataclass(frozen=True)
class NearPairs:
    """Rows that are nearly the same.

    Attributes:
        pairs: Places of rows, the earlier first, sorted by the later.
        notes: What was found out about large groups.
    """

    pairs: Sequence[tuple[int, int]]
    notes: Sequence[str]


def find_near_pairs(prints: Fingerprints, num_others: int, read_texts: ReadTexts, *, threshold: float) -> NearPairs:
    """Pairs of rows whose inputs are nearly the same, and whose answers are too unless one is of another file.

    Args:
        prints: The rows of other files, then those of the file.
        num_others: How many rows are of other files.
        read_texts: Gives the texts of the rows that need to be looked at.
        threshold: Least share of common 4-grams.
    """
    pairs = pair_rows(prints, threshold=threshold - _SLACK)
    pairs = pairs[pairs[:, 1] >= num_others]
    texts = read_texts(np.unique(pairs))
    alike = [
        (first, second)
        for first, second in pairs.tolist()
        if are_alike(texts[first].input, texts[second].input, threshold)
        and (first < num_others or are_alike(texts[first].answer, texts[second].answer, threshold))
    ]
    kept, notes = _look_into_groups(alike, len(prints), texts, threshold)
    return NearPairs(sorted(kept, key=lambda pair: (pair[1], pair[0])), notes)


def are_alike(first: str, second: str, threshold: float) -> bool:
    """Whether two comparable texts are equal or, if both are long enough for that, nearly so."""
    if first == second:
        return True
    return min(len(first), len(second)) >= MIN_CHARACTERS and measure_similarity(first, second) >= threshold


def _look_into_groups(
    pairs: Sequence[tuple[int, int]], size: int, texts: Mapping[int, RowText], threshold: float
) -> tuple[list[tuple[int, int]], list[str]]:
    """Compare the rows of large groups without the words that all of them begin and end with."""
    places = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    numbers = connect(np.arange(size, dtype=np.int64), places)
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for pair in pairs:
        groups[int(numbers[pair[0]])].append(pair)
    kept: list[tuple[int, int]] = []
    notes: list[str] = []
    for members in groups.values():
        rows = sorted({row for pair in members for row in pair})
        frame, bare = cut_frame([texts[row].input for row in rows])
        if len(rows) <= LARGE_GROUP or frame < _MIN_FRAME_WORDS:
            kept += members
            continue
        inputs = dict(zip(rows, bare, strict=True))
        left = [pair for pair in members if are_alike(inputs[pair[0]], inputs[pair[1]], threshold)]
        notes.append(f"{len(rows):,} rows share {frame} words at their ends, which were not compared")
        kept += left
    return kept, notes


def cut_frame(texts: Sequence[str]) -> tuple[int, list[str]]:
    """How many words all texts begin and end with together, and the texts without them."""
    words = [text.split(" ") for text in texts]
    shortest = min(map(len, words))
    start = _count_shared(words, shortest)
    end = _count_shared([each[::-1] for each in words], shortest - start)
    return start + end, [" ".join(each[start : len(each) - end]) for each in words]


def _count_shared(words: Sequence[Sequence[str]], most: int) -> int:
    for place in range(most):
        if any(each[place] != words[0][place] for each in words):
            return place
    return most


def take_rows(prints: Fingerprints, order: NDArray[np.int64]) -> Fingerprints:
    """The rows of some fingerprints in another order."""
    signatures = None if prints.signatures is None else prints.signatures[order]
    return Fingerprints(
        prints.row[order],
        prints.input[order],
        prints.question[order],
        prints.answer[order],
        prints.file[order],
        prints.line[order],
        signatures,
    )
