"""Two rankings of passages, by vectors and by words, made one.

score = w d' + (1 - w) l', with each arm's scores scaled to 0..1 among the candidates: l' = l / max l, for a BM25 of 0
is no word in common; d' = (d - min d) / (max d - min d), for cosines of one model crowd together. A passage that one
arm did not find has 0 there. Reference: Bruch, Gai & Ingber 2023, arXiv:2210.11934, section 3.
"""

from collections.abc import Sequence

from kivnun.retrieval.passages import Chunk, Hit

Ranked = Sequence[tuple[Chunk, float]]
"""Chunks and their scores in one arm, best first."""

AUTO_WEIGHT = 0.5
"""Weight of the vectors where nothing else is known; a query that the embedder cannot read has none at all."""


def fuse(dense: Ranked, lexical: Ranked, *, dense_weight: float) -> list[Hit]:
    """Both arms as one ranking, best first, ties by chunk id; passages that no arm found are left out.

    The least of the cosines is scaled to 0 whatever it is: that passage was found all the same.

    Args:
        dense: Cosines.
        lexical: BM25.
        dense_weight: Weight w of the cosines, 0 to 1.
    """
    cosines = {chunk.id: score for chunk, score in dense}
    counts = {chunk.id: score for chunk, score in lexical}
    low, high = min(cosines.values(), default=0.0), max(cosines.values(), default=0.0)
    # Where all cosines are alike, as with one passage, there is nothing to scale.
    span = high - low
    best = max(counts.values(), default=0.0) or 1.0

    def score(name: str) -> float:
        near = 0.0 if name not in cosines else ((cosines[name] - low) / span if span > 0 else 1.0)
        return dense_weight * near + (1 - dense_weight) * counts.get(name, 0.0) / best

    chunks = {chunk.id: chunk for chunk, _ in (*dense, *lexical)}
    hits = [Hit(chunk, score(name), cosines.get(name), counts.get(name)) for name, chunk in chunks.items()]
    return sorted(
        (hit for hit in hits if hit.score > 0 or (dense_weight > 0 and hit.dense is not None)),
        key=lambda hit: (-hit.score, hit.chunk.id),
    )
