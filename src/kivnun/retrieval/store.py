"""The seam behind which chunks and vectors are kept: `Store`; SQLite, LanceDB and pgvector implement it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.passages import Chunk, MetadataValue

Filters = Mapping[str, MetadataValue]
"""Values that the metadata of a chunk must have, all of them."""


@dataclass(frozen=True)
class StoredDocument:
    """What a store knows of a document that was indexed.

    Attributes:
        id: Its id.
        content_hash: What it was when it was indexed.
        num_chunks: Its chunks.
    """

    id: str
    content_hash: str
    num_chunks: int


@dataclass(frozen=True)
class IndexedChunk:
    """A chunk with what it is found by.

    Attributes:
        chunk: The chunk.
        terms: Its words as `analysis.analyse` gives them, in order and repeated as they are.
        vector: Its unit vector in float32; None where there is no embedder.
    """

    chunk: Chunk
    terms: tuple[str, ...]
    vector: NDArray[np.float32] | None = None


class Store(Protocol):
    """Chunks, their words and their vectors.

    What `replace_documents` or `delete_documents` returned from is kept, whole, even if the process is killed in the
    next moment; readers in other processes see all of it or nothing.
    """

    def identity(self) -> Mapping[str, object] | None:
        """The index's own description (embedder, chunking, analysis) as it was written; None for an empty store."""
        ...

    def write_identity(self, identity: Mapping[str, object]) -> None:
        """Write the description; it is refused (ValueError) where documents are stored under another one."""
        ...

    def documents(self) -> dict[str, StoredDocument]:
        """Every document that is stored, by its id."""
        ...

    def replace_documents(self, documents: Sequence[tuple[StoredDocument, Sequence[IndexedChunk]]]) -> None:
        """Store documents with all their chunks in one transaction, in place of what they had before."""
        ...

    def delete_documents(self, ids: Sequence[str]) -> None:
        """Remove documents with their chunks; unknown ids are a ValueError."""
        ...

    def search_vector(
        self, vector: NDArray[np.float32], k: int, filters: Filters | None = None
    ) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest cosine that pass the filters, best first; ties by chunk id."""
        ...

    def search_terms(self, terms: Sequence[str], k: int, filters: Filters | None = None) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest BM25 (k1 = 1.2, b = 0.75) that pass the filters, best first; ties by chunk id."""
        ...

    def chunks(self, document: str | None = None) -> Iterator[Chunk]:
        """All chunks, or those of one document, in order."""
        ...

    def close(self) -> None:
        """Give files and connections free."""
        ...
