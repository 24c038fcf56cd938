"""The store without a server: one SQLite file, its words and vectors in memory while it is open.

Vectors are kept in float32: half precision saves 38 MB of 50,000 chunks and moves one cosine in a thousand past
another one, so that stores would rank differently.
"""

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.resident import Candidates, Resident
from kivnun.retrieval.sqlite_schema import open_database, reading, refusals, writing
from kivnun.retrieval.store import Filters, IndexedChunk, StoredDocument
from kivnun.retrieval.store_rows import (
    DocumentRow,
    check_dimension,
    check_identity,
    check_known,
    dimension_of,
    facets_of,
    prepare_documents,
    unit_vector,
)

_CHUNK = (
    "SELECT documents.id, place, first, past, text, heading, metadata FROM chunks "
    "JOIN documents ON documents.number = chunks.document"
)
_PAGE = 500

_LOADED = 10_000
"""Chunks that are read into memory at once."""


class SqliteStore:
    """Chunks in one SQLite file."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the file.

        Raises:
            UserError: `index-missing` where there is none, or the file is something else; `store-failed` where it is
                damaged, newer than this program, or cannot be opened.
        """
        self._path = path
        self._connection = open_database(path, create=create)
        self._resident = Resident()
        self._one_at_a_time = threading.RLock()

    def identity(self) -> Mapping[str, object] | None:
        """The index's own description; None where none was written."""
        with self._reading():
            return self._identity()

    def write_identity(self, identity: Mapping[str, object]) -> None:
        """Write the description.

        Raises:
            ValueError: Documents are stored under another one.
        """
        with self._writing():
            (num_documents,) = self._connection.execute("SELECT count(*) FROM documents").fetchone()
            check_identity(identity, self._identity(), num_documents)
            written = json.dumps(dict(identity))
            self._connection.execute("UPDATE description SET identity = ?", (written,))

    def documents(self) -> dict[str, StoredDocument]:
        """Every document that is stored, by its id."""
        with self._reading():
            rows = self._connection.execute("SELECT id, content_hash, num_chunks FROM documents ORDER BY id")
            return {row[0]: StoredDocument(*row) for row in rows}

    def replace_documents(self, documents: Sequence[tuple[StoredDocument, Sequence[IndexedChunk]]]) -> None:
        """Store documents with all their chunks in one transaction, in place of what they had before.

        Raises:
            ValueError: An id is given twice, chunks do not belong to their document, or vectors have another length
                than those that stay.
            UserError: `store-failed`, `disk-full`.
        """
        rows = prepare_documents(documents)
        with self._writing():
            self._delete([row.document.id for row in rows])
            if (given := dimension_of(rows)) is not None:
                check_dimension(given, self._dimension())
            for row in rows:
                self._insert(row)

    def delete_documents(self, ids: Sequence[str]) -> None:
        """Remove documents with their chunks.

        Raises:
            ValueError: An id is unknown or given twice.
            UserError: `store-failed`, `disk-full`.
        """
        with self._writing():
            known = {row[0] for row in self._connection.execute("SELECT id FROM documents")}
            check_known(ids, known)
            self._delete(ids)

    def search_vector(
        self, vector: NDArray[np.float32], k: int, filters: Filters | None = None
    ) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest cosine that pass the filters, best first; ties by chunk id.

        Raises:
            ValueError: The vector has another length than those that are stored.
        """
        unit = unit_vector(vector)
        with self._reading():
            self._refresh()
            check_dimension(unit.size, self._resident.dimension)
            return self._ranked(self._resident.nearest(unit, k, self._passing(filters)), k)

    def search_terms(self, terms: Sequence[str], k: int, filters: Filters | None = None) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest BM25 that pass the filters, best first; ties by chunk id."""
        with self._reading():
            self._refresh()
            return self._ranked(self._resident.best_worded(terms, k, self._passing(filters)), k)

    def chunks(self, document: str | None = None) -> Iterator[Chunk]:
        """All chunks, or those of one document, in order of document and number."""
        last: tuple[str, int] = ("" if document is None else document, -1)
        one = "" if document is None else "AND documents.id = :document"
        where = f"WHERE (documents.id, place) > (:id, :place) {one} ORDER BY documents.id, place LIMIT {_PAGE}"
        while True:
            with self._reading():
                names = {"id": last[0], "place": last[1], "document": document}
                page = [_chunk_of(row) for row in self._connection.execute(f"{_CHUNK} {where}", names)]
            yield from page
            if len(page) < _PAGE:
                return
            last = (page[-1].document, page[-1].number)

    def close(self) -> None:
        """Give the file free; a second time does nothing."""
        with self._one_at_a_time:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Generator[None]:
        with self._one_at_a_time, refusals(self._path), reading(self._connection):
            yield

    @contextmanager
    def _writing(self) -> Generator[None]:
        with self._one_at_a_time, refusals(self._path), writing(self._connection):
            yield
            self._connection.execute("UPDATE description SET generation = generation + 1")

    def _identity(self) -> dict[str, object] | None:
        (written,) = self._connection.execute("SELECT identity FROM description").fetchone()
        return None if written is None else json.loads(written)

    def _dimension(self) -> int | None:
        found = self._connection.execute(
            "SELECT length(vector) FROM found_by WHERE vector IS NOT NULL LIMIT 1"
        ).fetchone()
        return None if found is None else found[0] // np.dtype(np.float32).itemsize

    def _delete(self, ids: Sequence[str]) -> None:
        self._connection.executemany("DELETE FROM documents WHERE id = ?", [(name,) for name in ids])

    def _insert(self, row: DocumentRow) -> None:
        stored = row.document
        written = json.dumps(dict(row.metadata), ensure_ascii=False)
        number = self._connection.execute(
            "INSERT INTO documents (id, content_hash, num_chunks, metadata) VALUES (?, ?, ?, ?)",
            (stored.id, stored.content_hash, stored.num_chunks, written),
        ).lastrowid
        self._connection.executemany("INSERT INTO facets VALUES (?, ?)", [(facet, number) for facet in row.facets])
        for kept in row.chunks:
            chunk = kept.chunk
            values = (number, chunk.number, chunk.start, chunk.end, chunk.text, chunk.heading)
            chunk_number = self._connection.execute(
                "INSERT INTO chunks (document, place, first, past, text, heading) VALUES (?, ?, ?, ?, ?, ?)", values
            ).lastrowid
            vector = None if kept.vector is None else kept.vector.tobytes()
            self._connection.execute("INSERT INTO found_by VALUES (?, ?, ?)", (chunk_number, kept.terms, vector))

    def _refresh(self) -> None:
        """Bring memory to the state that this transaction reads."""
        (generation,) = self._connection.execute("SELECT generation FROM description").fetchone()
        if generation == self._resident.generation:
            return
        numbers = np.array(self._connection.execute("SELECT number FROM chunks").fetchall(), np.int64).ravel()
        known = self._resident.update(numbers)
        rows = self._connection.execute(
            "SELECT chunk, document, terms, vector FROM found_by JOIN chunks ON number = chunk WHERE chunk > ? "
            "ORDER BY chunk",
            (known,),
        )
        while page := rows.fetchmany(_LOADED):
            self._resident.add(*zip(*page, strict=True))
        self._resident.generation = generation

    def _passing(self, filters: Filters | None) -> list[int] | None:
        """Numbers of the documents that have all the values; None for no filter."""
        if not filters:
            return None
        facets = facets_of(filters)
        wanted = " INTERSECT ".join(["SELECT document FROM facets WHERE facet = ?"] * len(facets))
        return [row[0] for row in self._connection.execute(wanted, facets)]

    def _ranked(self, candidates: Candidates, k: int) -> list[tuple[Chunk, float]]:
        """The best `k` of the candidates with their texts; ties by chunk id."""
        wanted = json.dumps(candidates.numbers.tolist())
        rows = self._connection.execute(
            "SELECT chunks.number, documents.id || '@' || place FROM chunks JOIN documents "
            "ON documents.number = chunks.document WHERE chunks.number IN (SELECT value FROM json_each(?))",
            (wanted,),
        )
        ids: dict[int, str] = dict(rows.fetchall())
        scored = zip(candidates.numbers.tolist(), candidates.scores.tolist(), strict=True)
        best = sorted(scored, key=lambda pair: (-pair[1], ids[pair[0]]))[:k]
        return [(self._chunk(number), score) for number, score in best]

    def _chunk(self, number: int) -> Chunk:
        return _chunk_of(self._connection.execute(f"{_CHUNK} WHERE chunks.number = ?", (number,)).fetchone())


def _chunk_of(row: tuple[str, int, int, int, str, str, str]) -> Chunk:
    document, place, start, end, text, heading, metadata = row
    return Chunk(document, place, start, end, text, heading, json.loads(metadata))
