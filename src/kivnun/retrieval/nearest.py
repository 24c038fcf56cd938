"""The best by cosine among what a database found: scored again in one way, so that all stores rank alike."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.passages import Chunk

Found = tuple[Chunk, NDArray[np.float32]]

_MORE = 16
_ROUNDING = 1e-5
"""More than a database errs in the cosine of unit vectors in float32."""


def rank_nearest(
    fetch: Callable[[int], Sequence[Found]], vector: NDArray[np.float32], k: int
) -> list[tuple[Chunk, float]]:
    """The `k` chunks of greatest cosine to a unit vector, best first; ties by chunk id.

    A database cuts ties where it likes, so more are fetched until the last one is clearly worse than the `k`-th.

    Args:
        fetch: Gives the nearest chunks, as many as it is told, with their unit vectors.
        vector: The vector.
        k: How many.
    """
    wanted = k + _MORE
    while True:
        found = fetch(wanted)
        if not found:
            return []
        rows = np.stack([row for _, row in found]).astype(np.float64)
        scores = (rows * vector.astype(np.float64)).sum(axis=1)
        scored = [(chunk, float(score)) for (chunk, _), score in zip(found, scores, strict=True)]
        best = sorted(scored, key=lambda pair: (-pair[1], pair[0].id))[:k]
        if len(found) < wanted or scores.min() < best[-1][1] - _ROUNDING:
            return best
        wanted *= 4
