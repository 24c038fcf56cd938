"""What of a store is kept in memory for searching: words and vectors, brought up to date by what changed.

A store numbers its chunks upwards and never changes a chunk under its number, so the numbers alone tell what is gone
and what is new.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.bm25 import Postings

_ROUNDING = 1e-5
"""More than float32 errs in the cosine of unit vectors of any usual length."""

_FEW = 0.25
"""Share of vectors below which a filtered scan copies them out instead of scanning all."""


@dataclass(frozen=True)
class Candidates:
    """Chunks that may be among the best: all that reach the score of the `k`-th, so that ties are seen whole.

    Attributes:
        numbers: Their numbers.
        scores: Their scores.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]


class Matrix:
    """Vectors in rows; room for more is kept, so that adding does not copy each time."""

    def __init__(self) -> None:
        self.places: NDArray[np.int64] = np.zeros(0, np.int64)
        self._room: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    @property
    def rows(self) -> NDArray[np.float32]:
        """The vectors."""
        return self._room[: self.places.size]

    def add(self, vectors: Sequence[bytes | None], first_place: int) -> None:
        """Add the vectors of chunks; a chunk without one takes no row."""
        given = [vector for vector in vectors if vector is not None]
        if not given:
            return
        new = np.frombuffer(b"".join(given), np.float32).reshape(len(given), -1)
        places = [first_place + offset for offset, vector in enumerate(vectors) if vector is not None]
        used = self.places.size
        self.places = np.concatenate([self.places, np.array(places, np.int64)])
        if self.places.size > self._room.shape[0]:
            room = np.zeros((self.places.size if not used else self.places.size * 3 // 2, new.shape[1]), np.float32)
            if used:
                room[:used] = self._room[:used]
            self._room = room
        self._room[used : self.places.size] = new


class Resident:
    """The chunks of a store in memory."""

    def __init__(self) -> None:
        self.generation = -1
        self._clear()

    @property
    def dimension(self) -> int | None:
        """How many numbers a vector has; None where there is no vector."""
        return self._matrix.rows.shape[1] if self._matrix.places.size else None

    def update(self, numbers: NDArray[np.int64]) -> int:
        """Forget the chunks that are gone.

        Args:
            numbers: Every chunk that is stored now.

        Returns:
            The greatest number that is known; what is above it is to be added.
        """
        self._present &= np.isin(self._numbers, numbers)
        if int((~self._present).sum()) * 4 > self._numbers.size:
            self._clear()
        return int(self._numbers[-1]) if self._numbers.size else -1

    def add(
        self,
        numbers: Sequence[int],
        documents: Sequence[int],
        terms: Sequence[bytes],
        vectors: Sequence[bytes | None] = (),
    ) -> None:
        """Take chunks in, in the order of their numbers, all above the known ones."""
        self._matrix.add(vectors, self._numbers.size)
        self._postings.add(terms)
        self._numbers = np.concatenate([self._numbers, np.array(numbers, np.int64)])
        self._documents = np.concatenate([self._documents, np.array(documents, np.int64)])
        self._present = np.concatenate([self._present, np.ones(len(numbers), bool)])

    def nearest(self, vector: NDArray[np.float32], k: int, documents: Sequence[int] | None) -> Candidates:
        """The chunks of greatest cosine to a unit vector, by scanning all.

        Args:
            vector: The vector.
            k: How many.
            documents: The documents that pass a filter; None for all.
        """
        places, rows = self._matrix.places, self._matrix.rows
        if not places.size:
            return Candidates(np.zeros(0, np.int64), np.zeros(0))
        allowed = self._allowed(documents)[places]
        if (few := int(allowed.sum())) < _FEW * places.size:
            places, rows, allowed = places[allowed], rows[allowed], np.ones(few, bool)
        scores = rows @ vector
        if few < places.size:
            scores[~allowed] = -np.inf
        best = _reaching(scores, k, _ROUNDING)
        best = best[allowed[best]]
        exact = (rows[best].astype(np.float64) * vector.astype(np.float64)).sum(axis=1)
        return Candidates(self._numbers[places[best]], exact)

    def best_worded(self, terms: Sequence[str], k: int, documents: Sequence[int] | None) -> Candidates:
        """The chunks of greatest BM25 that have one of the words.

        Args:
            terms: Words of the query.
            k: How many.
            documents: The documents that pass a filter; None for all.
        """
        scores = self._postings.score(terms, self._present)
        scores[~self._allowed(documents)] = 0.0
        found = np.flatnonzero(scores)
        best = found[_reaching(scores[found], k, 0.0)]
        return Candidates(self._numbers[best], scores[best])

    def _allowed(self, documents: Sequence[int] | None) -> NDArray[np.bool_]:
        if documents is None:
            return self._present
        return self._present & np.isin(self._documents, np.array(documents, np.int64))

    def _clear(self) -> None:
        self._numbers = np.zeros(0, np.int64)
        self._documents = np.zeros(0, np.int64)
        self._present = np.zeros(0, bool)
        self._postings = Postings()
        self._matrix = Matrix()


def _reaching(scores: NDArray[np.floating], k: int, rounding: float) -> NDArray[np.int64]:
    """Where the scores are that reach the `k`-th greatest one, or err by no more than `rounding`."""
    if scores.size <= k:
        return np.arange(scores.size)
    kth = np.partition(scores, scores.size - k)[scores.size - k]
    return np.flatnonzero(scores >= kth - rounding)
