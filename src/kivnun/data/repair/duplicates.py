"""Rows that repeat others, or that stand in the test rows, left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kivnun.data.conversation import Conversation
from kivnun.data.duplicates.fingerprint import Fingerprints, concatenate, fingerprint, input_words
from kivnun.data.duplicates.groups import first_equal
from kivnun.data.duplicates.minhash import THRESHOLD
from kivnun.data.duplicates.words import comparable
from kivnun.data.repair.near import RowText, find_near_pairs, take_rows
from kivnun.data.repair.rewrite import Change, Repair, Target, rewrite
from kivnun.data.repair.source import Show, Source, read_conversations, scale
from kivnun.data.rows import Row

_BATCH_ROWS = 512
_KEPT = -1
_MIX = np.uint64(0xFF51AFD7ED558CCD)
REASONS = (
    "duplicate",
    "duplicate but for case, points, punctuation or spaces",
    "near duplicate",
    "input stands in the other file",
    "input nearly stands in the other file",
)
_EXACT, _WORDED, _NEAR, _AGAINST, _NEAR_AGAINST = range(len(REASONS))


@dataclass(frozen=True)
class DuplicateOptions:
    """What counts as a repetition.

    Attributes:
        near: Whether rows that are nearly the same count too.
        keep: Which of several rows stays.
        threshold: Least share of common 4-grams of near duplicates.
    """

    near: bool = False
    keep: Literal["first", "last"] = "first"
    threshold: float = THRESHOLD


def deduplicate(
    source: Source,
    target: Target,
    options: DuplicateOptions,
    *,
    against: Sequence[Source] = (),
    show: Show | None = None,
) -> Repair:
    """Write a file without rows that repeat another.

    Args:
        source: The file.
        target: Where to.
        options: What counts as a repetition.
        against: Files, such as the test rows, whose inputs no row may have.
        show: Is told again and again how far the work is.

    Raises:
        UserError: What reading the files and `rewrite` raise.
    """
    search = _Search((*against, source), options, scale(show, 0, 0.6))
    search.find_equal()
    notes = search.find_near() if options.near else ()
    return rewrite(source, target, search.decide, notes=notes, show=scale(show, 0.6, 1))


class _Search:
    """The rows of all files in the order in which they count, each with the one that it gives way to.

    Rows of the other files come first. Where the last of several rows stays, the file's own are turned round.
    """

    def __init__(self, sources: Sequence[Source], options: DuplicateOptions, show: Show | None) -> None:
        self._sources = sources
        self._options = options
        prints = concatenate([_print_rows(each, number, options, show) for number, each in enumerate(sources)])
        self._num_others = int((prints.file < len(sources) - 1).sum())
        self._order = np.arange(len(prints), dtype=np.int64)
        if options.keep == "last":
            self._order[self._num_others :] = self._order[self._num_others :][::-1]
        self._prints = take_rows(prints, self._order)
        self._twins = np.full(len(prints), _KEPT, dtype=np.int64)
        self._reasons = np.zeros(len(prints), dtype=np.uint8)

    def find_equal(self) -> None:
        """Let rows give way to those of other files with the same input, then to equal ones."""
        prints = self._prints
        first = first_equal(prints.input)
        self._give_way(first, _AGAINST, chosen=first < self._num_others)
        self._give_way(first_equal(prints.row), _EXACT)
        if self._options.near:
            self._give_way(first_equal(prints.question * _MIX + prints.answer), _WORDED)

    def find_near(self) -> Sequence[str]:
        """Let rows give way to those that are nearly the same and stay; what is worth knowing is returned."""
        near = find_near_pairs(self._prints, self._num_others, self._read_texts, threshold=self._options.threshold)
        for first, second in near.pairs:
            if self._twins[first] == self._twins[second] == _KEPT:
                self._twins[second] = first
                self._reasons[second] = _NEAR_AGAINST if first < self._num_others else _NEAR
        return near.notes

    def decide(self, index: int, _: Row) -> Change | None:
        """What becomes of a row of the file."""
        own = len(self._order) - self._num_others
        place = self._num_others + (index if self._options.keep == "first" else own - 1 - index)
        twin = int(self._twins[place])
        if twin == _KEPT:
            return None
        # The other row may itself have given way to a third.
        while self._twins[twin] != _KEPT:
            twin = int(self._twins[twin])
        where = f"{self._sources[int(self._prints.file[twin])].name}:{self._prints.line[twin]}"
        return Change("dropped", REASONS[int(self._reasons[place])], {"kept": where})

    def _give_way(self, first: NDArray[np.int64], reason: int, *, chosen: NDArray[np.bool_] | None = None) -> None:
        places = np.arange(len(first))
        later = (first != places) & (places >= self._num_others) & (self._twins == _KEPT)
        if chosen is None:
            # An equal row of another file with another answer is no copy of this one's.
            chosen = first >= self._num_others
        later &= chosen
        self._twins[later] = first[later]
        self._reasons[later] = reason

    def _read_texts(self, places: NDArray[np.int64]) -> Mapping[int, RowText]:
        wanted = dict(zip(self._order[places].tolist(), places.tolist(), strict=True))
        texts: dict[int, RowText] = {}
        number = 0
        for source in self._sources:
            for _, conversation in read_conversations(source):
                if number in wanted:
                    texts[wanted[number]] = _row_text(conversation)
                number += 1
        return texts


def _row_text(conversation: Conversation) -> RowText:
    words = input_words(conversation)
    answer = comparable(conversation.messages[-1].content)
    return RowText(words, "" if answer == words else answer)


def _print_rows(source: Source, number: int, options: DuplicateOptions, show: Show | None) -> Fingerprints:
    parts: list[Fingerprints] = []
    conversations: list[Conversation] = []
    lines: list[int] = []
    for row, conversation in read_conversations(source, show):
        conversations.append(conversation)
        lines.append(row.line)
        if len(lines) == _BATCH_ROWS:
            parts.append(fingerprint(conversations, lines, file=number, near=options.near))
            conversations, lines = [], []
    parts.append(fingerprint(conversations, lines, file=number, near=options.near))
    return concatenate(parts)
