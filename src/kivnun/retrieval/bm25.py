"""Ranking by words: BM25 (Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, eq. 3.15).

The score of a chunk is the sum, over the words of the query, of
idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * dl / avgdl)) with idf = ln(1 + (N - df + 0.5) / (df + 0.5)). A word that
the query repeats counts as often. Filters change neither N nor df. Every store ranks with this module, from the words
that it keeps beside each chunk, so that all rank alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.store_rows import TERM_COUNT, hash_term

K1 = 1.2
B = 0.75

_MOST_SEGMENTS = 8


@dataclass(frozen=True)
class _Segment:
    """Where words stand: those of term `i` are `places[starts[i]:starts[i + 1]]`, sorted by term."""

    terms: NDArray[np.uint64]
    starts: NDArray[np.int64]
    places: NDArray[np.int32]
    counts: NDArray[np.uint32]

    def find(self, term: int) -> slice:
        """Where the postings of a term are."""
        at = int(np.searchsorted(self.terms, np.uint64(term)))
        if at == self.terms.size or int(self.terms[at]) != term:
            return slice(0, 0)
        return slice(int(self.starts[at]), int(self.starts[at + 1]))


class Postings:
    """Which chunks a word stands in; chunks are named by their place, counted from 0 as they are added."""

    def __init__(self) -> None:
        self.lengths: NDArray[np.float64] = np.zeros(0)
        self._segments: list[_Segment] = []
        self._waiting: list[NDArray[np.void]] = []
        self._waiting_places: list[NDArray[np.int32]] = []

    def add(self, chunks: Sequence[bytes]) -> None:
        """Add chunks, each given as the bytes of its `TERM_COUNT` items."""
        items = np.frombuffer(b"".join(chunks), TERM_COUNT)
        sizes = np.fromiter((len(chunk) for chunk in chunks), np.int64, len(chunks)) // TERM_COUNT.itemsize
        places = np.repeat(np.arange(len(chunks), dtype=np.int32), sizes)
        lengths = np.bincount(places, weights=items["count"], minlength=len(chunks)).astype(np.float64)
        self._waiting.append(items)
        self._waiting_places.append(places + np.int32(self.lengths.size))
        self.lengths = np.concatenate([self.lengths, lengths])

    def score(self, terms: Sequence[str], present: NDArray[np.bool_]) -> NDArray[np.float64]:
        """BM25 of every chunk, 0 for those that have none of the words.

        Args:
            terms: Words of the query.
            present: Which chunks are there; the others count nowhere, and score what does not matter.
        """
        self._sort_waiting()
        scores = np.zeros(self.lengths.size)
        num_chunks = int(present.sum())
        mean_length = float(self.lengths[present].mean()) if num_chunks else 0.0
        all_present = num_chunks == self.lengths.size
        for term, repeats in Counter(terms).items():
            places, counts = self._find(hash_term(term))
            if not all_present:
                kept = present[places]
                places, counts = places[kept], counts[kept]
            idf = np.log1p((num_chunks - places.size + 0.5) / (places.size + 0.5))
            norms = K1 * (1 - B + B * self.lengths[places] / mean_length) if places.size else 0.0
            scores[places] += repeats * idf * counts * (K1 + 1) / (counts + norms)
        return scores

    def _find(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        found = [(segment, segment.find(term)) for segment in self._segments]
        places = [segment.places[where] for segment, where in found]
        counts = [segment.counts[where] for segment, where in found]
        if not found:
            return np.zeros(0, np.int32), np.zeros(0)
        return np.concatenate(places), np.concatenate(counts).astype(np.float64)

    def _sort_waiting(self) -> None:
        """Sort what was added since the last search; few chunks make a segment beside the others."""
        if not self._waiting:
            return
        items, places = np.concatenate(self._waiting), np.concatenate(self._waiting_places)
        terms, counts = np.ascontiguousarray(items["term"]), np.ascontiguousarray(items["count"])
        self._waiting, self._waiting_places = [], []
        if len(self._segments) >= _MOST_SEGMENTS:
            old = self._segments
            terms = np.concatenate([*(np.repeat(part.terms, np.diff(part.starts)) for part in old), terms])
            places = np.concatenate([*(part.places for part in old), places])
            counts = np.concatenate([*(part.counts for part in old), counts])
            self._segments = []
        self._segments.append(_sort(terms, places, counts))


def _sort(terms: NDArray[np.uint64], places: NDArray[np.int32], counts: NDArray[np.uint32]) -> _Segment:
    order = np.argsort(terms)
    ordered = terms[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if ordered.size else np.zeros(0, int)
    return _Segment(ordered[starts], np.append(starts, ordered.size), places[order], counts[order])
