"""Rows that belong together: those with equal values, pairs of near duplicates, and what pairs join."""

import numpy as np
from numpy.typing import NDArray

from kivnun.data.duplicates.fingerprint import Fingerprints
from kivnun.data.duplicates.minhash import THRESHOLD, near_pairs


def pair_rows(prints: Fingerprints, *, threshold: float = THRESHOLD) -> NDArray[np.int64]:
    """Pairs of rows with different inputs that are nearly the same, the earlier first; of equal inputs only the first.

    Args:
        prints: The rows; without signatures there are no pairs.
        threshold: Least estimated share of common 4-grams.
    """
    if prints.signatures is None or not len(prints):
        return np.empty((0, 2), dtype=np.int64)
    distinct = np.sort(np.unique(prints.input, return_index=True)[1])
    return distinct[near_pairs(prints.signatures[distinct], threshold=threshold)]


def first_equal(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each value the place where it stands first."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def connect(labels: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first place of each place's component, of places joined by equal labels and by pairs.

    Args:
        labels: For each place an earlier one that it belongs to, or itself; such a one belongs to itself.
        pairs: Places that belong together.
    """
    labels = labels.copy()
    while len(pairs):
        ends = labels[pairs]
        pairs = pairs[ends[:, 0] != ends[:, 1]]
        low, high = ends.min(axis=1), ends.max(axis=1)
        np.minimum.at(labels, high, low)
        # Follow every label to its end, so that the next round compares whole components.
        while not np.array_equal(shorter := labels[labels], labels):
            labels = shorter
    return labels
