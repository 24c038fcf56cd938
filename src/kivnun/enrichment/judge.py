"""Which offered rows are kept: new, whole, in the right language, with a known label, and not from the test split."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kivnun.data.checks.row import check_row
from kivnun.data.checks.scripts import main_script
from kivnun.data.conversation import Conversation
from kivnun.data.duplicates.minhash import MIN_CHARACTERS, THRESHOLD, signatures
from kivnun.data.duplicates.words import comparable
from kivnun.data.findings import CHECKS
from kivnun.data.rows import Row
from kivnun.enrichment.asking import Candidate, asked_turn


@dataclass
class Known:
    """Texts that a new row may not repeat: equal as comparable words, or nearly equal."""

    texts: set[str] = field(default_factory=set)
    prints: list[NDArray[np.uint32]] = field(default_factory=list)
    _matrix: NDArray[np.uint32] | None = None

    def add(self, texts: Sequence[str]) -> None:
        """Remember some texts."""
        plain = [comparable(text) for text in texts]
        self.texts.update(plain)
        long = [text for text in plain if len(text) >= MIN_CHARACTERS]
        if long:
            self.prints.append(signatures(long))
            self._matrix = None

    def holds(self, text: str) -> bool:
        """Whether a text, or nearly the same one, is known."""
        plain = comparable(text)
        if plain in self.texts:
            return True
        if len(plain) < MIN_CHARACTERS or not self.prints:
            return False
        if self._matrix is None:
            self._matrix = np.concatenate(self.prints)
            self.prints = [self._matrix]
        return float((self._matrix == signatures([plain])).mean(axis=1).max()) >= THRESHOLD


class Judge:
    """Decides about offered rows, one after another: a row that is kept counts as known from then on.

    Args:
        rows: The rows that are enriched.
        held_out: Rows that must not come into training: the test and validation rows.
        labels: The only answers that are allowed; empty for any.
    """

    def __init__(
        self, rows: Iterable[Conversation], held_out: Iterable[Conversation], labels: Collection[str] = ()
    ) -> None:
        self._known, self._held_out = Known(), Known()
        self._known.add([_asked(row) for row in rows])
        self._held_out.add([_asked(row) for row in held_out])
        self._labels = frozenset(labels)

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a row is not kept, in words that can be counted; None where it is, and then it is remembered."""
        row = candidate.conversation
        text = row.messages[asked_turn(row)].content
        sources = candidate.question.sources
        if self._labels and row.answer not in self._labels:
            return "its answer is no known label"
        if main_script(text) not in {main_script(_asked(source)) for source in sources}:
            return "it is in another script than its source"
        if self._held_out.holds(text):
            return "it is (nearly) a row that is held out"
        if self._known.holds(text):
            return "it is (nearly) a row that is there"
        wrong = _new_problems(row, sources[0])
        if wrong:
            return f"check {wrong[0]}"
        self._known.add([text])
        return None


def _asked(row: Conversation) -> str:
    """What the user says last before the answer; all of the row's text where nobody asks."""
    turns = [turn for turn in row.messages if turn.role == "user"]
    return turns[-1].content if turns else " ".join(turn.content for turn in row.messages)


def _new_problems(row: Conversation, source: Conversation) -> list[str]:
    """Codes of errors and warnings that the new row has and its source has not."""
    place = Row({}, "offered", 1)
    had = {finding.code for finding in check_row(source, place)}
    found = [finding.code for finding in check_row(row, place) if finding.code not in had]
    return sorted(code for code in found if CHECKS[code].severity != "note")
