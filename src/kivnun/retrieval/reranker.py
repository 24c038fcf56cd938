"""A cross-encoder that puts the best passages into a better order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kivnun.errors import UserError
from kivnun.retrieval.passages import Hit

NUM_RERANKED = 30
"""Passages that are read again; each costs a pass through the cross-encoder."""


class Reranker:
    """A cross-encoder of this machine.

    Args:
        folder: Its folder.

    Raises:
        UserError: `model-invalid`.
    """

    def __init__(self, folder: Path) -> None:
        from kivnun.models.cross_encoder import CrossEncoder  # noqa: PLC0415 - words alone need no torch

        self._encoder = CrossEncoder(folder)

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits in a new order, their scores now the probability that they fit; ties stay as they were."""
        passages = [join_heading(hit.chunk.heading, hit.chunk.text) for hit in hits]
        scores = self._encoder.score(query, passages)
        scored = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)


def open_reranker(spec: str) -> Reranker:
    """The reranker `hf:NAME[@REVISION]` or `dir:FOLDER`.

    Args:
        spec: Its name.

    Raises:
        UserError: `embedder-missing` where it is not here or the name is none; `model-invalid`.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("hf", "dir") or not name:
        raise UserError("embedder-missing", f"{spec!r} names no reranker", hint="use hf:NAME or dir:FOLDER")
    from kivnun.retrieval.embedders import require_folder  # noqa: PLC0415 - words alone need no torch
    from kivnun.retrieval.torch_embedder import fetch_hub_model  # noqa: PLC0415

    if kind == "dir":
        return Reranker(require_folder(spec, Path(name).expanduser()))
    return Reranker(fetch_hub_model("hf", name)[0])


def join_heading(heading: str, text: str) -> str:
    """A passage with the headings above it, as models read it."""
    return f"{heading}\n{text}" if heading else text
