"""Documents as every store keeps them: checked, with words counted, vectors of length one and filters as short keys."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.retrieval.passages import Chunk, MetadataValue
from kivnun.retrieval.store import Filters, IndexedChunk, StoredDocument

TERM_COUNT = np.dtype([("term", "<u8"), ("count", "<u4")])
"""A word of a chunk, as the first 64 bits of its BLAKE2b hash, and how often it stands there."""

_FACET_BYTES = 16


@dataclass(frozen=True)
class ChunkRow:
    """A chunk as a store keeps it.

    Attributes:
        chunk: The chunk.
        terms: Its words and their counts, as the bytes of `TERM_COUNT` items.
        vector: Its vector scaled to length one (zero stays zero); None where there is none.
    """

    chunk: Chunk
    terms: bytes
    vector: NDArray[np.float32] | None


@dataclass(frozen=True)
class DocumentRow:
    """A document as a store keeps it.

    Attributes:
        document: What is known of it.
        metadata: The metadata that all its chunks have.
        facets: One key for each item of the metadata, for filters.
        chunks: Its chunks in order.
    """

    document: StoredDocument
    metadata: Mapping[str, MetadataValue]
    facets: tuple[bytes, ...]
    chunks: tuple[ChunkRow, ...]


def prepare_documents(documents: Sequence[tuple[StoredDocument, Sequence[IndexedChunk]]]) -> list[DocumentRow]:
    """Check documents that should be stored and turn them into rows.

    Raises:
        ValueError: An id stands there twice, chunks do not belong to their document, or vectors differ in length.
        UserError: `store-failed`: a text that no database takes.
    """
    _refuse_repeats([document.id for document, _ in documents])
    rows = [_prepare_document(document, chunks) for document, chunks in documents]
    dimension_of(rows)
    return rows


def dimension_of(rows: Sequence[DocumentRow]) -> int | None:
    """How many numbers the vectors of the rows have; None where there is no vector.

    Raises:
        ValueError: They differ.
    """
    dimensions = {chunk.vector.size for row in rows for chunk in row.chunks if chunk.vector is not None}
    if len(dimensions) > 1:
        raise ValueError(f"vectors of different lengths: {sorted(dimensions)}")
    return dimensions.pop() if dimensions else None


def check_dimension(given: int | None, stored: int | None) -> None:
    """See that vectors fit those that are stored.

    Raises:
        ValueError: They have another length.
    """
    if given is not None and stored is not None and given != stored:
        raise ValueError(f"the stored vectors have {stored} numbers, not {given}")


def check_identity(identity: Mapping[str, object], stored: Mapping[str, object] | None, num_documents: int) -> None:
    """See that a description may be written over another one.

    Raises:
        ValueError: Documents are stored under another one.
    """
    if num_documents and stored != json.loads(json.dumps(dict(identity))):
        raise ValueError(f"{num_documents} documents are stored under another identity")


def check_known(ids: Sequence[str], known: set[str]) -> None:
    """See that documents to delete are stored, and named once.

    Raises:
        ValueError: They are not.
    """
    _refuse_repeats(ids)
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise ValueError(f"{len(unknown)} documents are not stored, such as {unknown[0]!r}")


def unit_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector scaled to length one; zero stays zero, so that its cosine to everything is 0.

    Raises:
        ValueError: It is not one row of finite numbers.
    """
    wide = np.asarray(vector, np.float64)
    if wide.ndim != 1 or not wide.size or not np.isfinite(wide).all():
        raise ValueError(f"a vector is one row of finite numbers, not of shape {wide.shape}")
    length = float(np.linalg.norm(wide))
    return (wide / length if length else wide).astype(np.float32)


def count_terms(terms: Sequence[str]) -> bytes:
    """Words and how often each stands there, as the bytes of `TERM_COUNT` items."""
    counts = Counter(terms)
    items = np.empty(len(counts), TERM_COUNT)
    items["term"] = [hash_term(term) for term in counts]
    items["count"] = list(counts.values())
    return items.tobytes()


@lru_cache(maxsize=1 << 17)
def hash_term(term: str) -> int:
    """A word as 64 bits; a million different words share a hash with a probability of 3e-8."""
    digest = hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def facets_of(metadata: Filters) -> tuple[bytes, ...]:
    """One key for each item of metadata or of a filter: equal for equal names and values.

    Numbers are equal whatever their type, as 2024 and 2024.0; true is not 1, and text is never equal to a number.
    """
    return tuple(_facet(name, value) for name, value in metadata.items())


def _facet(name: str, value: MetadataValue) -> bytes:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = json.dumps([name, value]).encode()
    return hashlib.blake2b(written, digest_size=_FACET_BYTES).digest()


def _prepare_document(document: StoredDocument, chunks: Sequence[IndexedChunk]) -> DocumentRow:
    metadata = chunks[0].chunk.metadata if chunks else {}
    if sorted(indexed.chunk.number for indexed in chunks) != list(range(document.num_chunks)):
        raise ValueError(f"the chunks of {document.id!r} are not numbered from 0 to {document.num_chunks - 1}")
    for indexed in chunks:
        if indexed.chunk.document != document.id or indexed.chunk.metadata != metadata:
            raise ValueError(f"a chunk of {document.id!r} has another document or other metadata")
    texts = [text for indexed in chunks for text in (indexed.chunk.text, indexed.chunk.heading)]
    _refuse_unstorable(document.id, [document.id, json.dumps(dict(metadata), ensure_ascii=False), *texts])
    rows = tuple(_prepare_chunk(indexed) for indexed in sorted(chunks, key=lambda indexed: indexed.chunk.number))
    return DocumentRow(document, metadata, facets_of(metadata), rows)


def _prepare_chunk(indexed: IndexedChunk) -> ChunkRow:
    vector = None if indexed.vector is None else unit_vector(indexed.vector)
    return ChunkRow(indexed.chunk, count_terms(indexed.terms), vector)


def _refuse_repeats(ids: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"document {repeated[0]!r} is given twice")


def _refuse_unstorable(document: str, texts: Sequence[str]) -> None:
    """Refuse half of a surrogate pair, which is no character, and a name with NUL, which PostgreSQL refuses."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        reason = "holds half of a surrogate pair, which is no character"
        raise _unstorable(document, reason) from error
    if "\0" in document:
        raise _unstorable(document, "has a name with a NUL character")


def _unstorable(document: str, reason: str) -> UserError:
    hint = "mend the document, or leave it out, and index again"
    return UserError("store-failed", f"document {document!a} {reason}", hint=hint)
