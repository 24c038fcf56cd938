"""The store that a team shares: PostgreSQL with pgvector, one schema for each index.

Vectors are scanned exactly until there are many; then an HNSW index (Malkov and Yashunin 2018, arXiv:1603.09320)
answers, and filtered searches use it only where pgvector goes on searching until enough rows pass.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.retrieval.nearest import Found, rank_nearest
from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.pg_schema import Server, name_schema, prepare_connection
from kivnun.retrieval.resident import Resident
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

_T = TypeVar("_T")

INDEX_FROM = 20_000
"""Chunks from which the approximate index is built and used."""

_INDEX = "nearest_vectors"
_MOST_DIMENSIONS = 2000
"""Longest vector that pgvector indexes; longer ones are scanned."""

_LEAST_EF, _MOST_EF = 100, 1000
_RESTART_SECONDS = 15.0
"""How long a server that was there is waited for."""

_PAGE = 500
_LOADED = 10_000

_COLUMNS = "c.number, d.id, c.place, c.first, c.past, c.content, d.metadata"
_FROM = "chunks c JOIN documents d ON d.number = c.document"


class PgStore:
    """Chunks in one schema of a PostgreSQL database."""

    def __init__(self, address: str, index: str, *, create: bool, index_from: int = INDEX_FROM) -> None:
        """Connect.

        Raises:
            UserError: `dependency-missing` without psycopg and pgvector; `index-missing`; `store-failed`.
        """
        self._server = Server(address)
        self._errors = self._server.packages.psycopg
        self._schema = name_schema(index)
        self._index_from = index_from
        self._one_at_a_time = threading.RLock()
        self._resident = Resident()
        self._connection: Any = None
        self._connect(create=create)

    def identity(self) -> Mapping[str, object] | None:
        """The index's own description; None where none was written."""
        return self._read(self._identity)

    def write_identity(self, identity: Mapping[str, object]) -> None:
        """Write the description.

        Raises:
            ValueError: Documents are stored under another one.
        """

        def write() -> None:
            num_documents = self._one("SELECT count(*) FROM documents")
            check_identity(identity, self._identity(), num_documents)
            self._run("UPDATE description SET identity = %s", (json.dumps(dict(identity)),))

        self._write(write)

    def documents(self) -> dict[str, StoredDocument]:
        """Every document that is stored, by its id."""
        rows = self._read(lambda: self._all("SELECT id, content_hash, num_chunks FROM documents ORDER BY id"))
        return {row[0]: StoredDocument(*row) for row in rows}

    def replace_documents(self, documents: Sequence[tuple[StoredDocument, Sequence[IndexedChunk]]]) -> None:
        """Store documents with all their chunks in one transaction, in place of what they had before.

        Raises:
            ValueError: An id is given twice, chunks do not belong to their document, or vectors have another length
                than those that stay.
            UserError: `store-failed`.
        """
        rows = prepare_documents(documents)
        dimension = dimension_of(rows)

        def write() -> None:
            self._run("DELETE FROM documents WHERE id = ANY(%s)", ([row.document.id for row in rows],))
            if dimension is not None:
                self._fit_vectors(dimension)
            self._insert(rows)
            if dimension is not None:
                self._fit_index(dimension)

        self._write(write)

    def delete_documents(self, ids: Sequence[str]) -> None:
        """Remove documents with their chunks.

        Raises:
            ValueError: An id is unknown or given twice.
            UserError: `store-failed`.
        """
        # A connection that is lost while it commits leaves open whether it did; the second attempt then finds less.
        attempts = iter([True, False])

        def write() -> None:
            if next(attempts):
                known = self._all("SELECT id FROM documents WHERE id = ANY(%s)", (list(ids),))
                check_known(ids, {row[0] for row in known})
            self._run("DELETE FROM documents WHERE id = ANY(%s)", (list(ids),))

        self._write(write)

    def search_vector(
        self, vector: NDArray[np.float32], k: int, filters: Filters | None = None
    ) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest cosine that pass the filters, best first; ties by chunk id.

        Raises:
            ValueError: The vector has another length than those that are stored.
        """
        unit = unit_vector(vector)

        def search() -> list[tuple[Chunk, float]]:
            check_dimension(unit.size, self._dimension())
            return rank_nearest(lambda wanted: self._nearest(unit, wanted, filters), unit, k)

        return self._read(search)

    def search_terms(self, terms: Sequence[str], k: int, filters: Filters | None = None) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest BM25 that pass the filters, best first; ties by chunk id."""

        def search() -> list[tuple[Chunk, float]]:
            self._refresh()
            found = self._resident.best_worded(terms, k, self._passing(filters))
            numbers = found.numbers.tolist()
            rows = self._all(f"SELECT {_COLUMNS} FROM {_FROM} WHERE c.number = ANY(%s)", (numbers,))  # noqa: S608
            chunks = {row[0]: _chunk_of(row) for row in rows}
            scored = zip(numbers, found.scores.tolist(), strict=True)
            pairs = [(chunks[number], score) for number, score in scored]
            return sorted(pairs, key=lambda pair: (-pair[1], pair[0].id))[:k]

        return self._read(search)

    def chunks(self, document: str | None = None) -> Iterator[Chunk]:
        """All chunks, or those of one document, in order of document and number."""
        last: tuple[str, int] = ("" if document is None else document, -1)
        one = "" if document is None else "AND d.id = %(document)s"
        query = (
            f"SELECT {_COLUMNS} FROM {_FROM} WHERE (d.id, c.place) > (%(id)s, %(place)s) {one} "  # noqa: S608
            f"ORDER BY d.id, c.place LIMIT {_PAGE}"
        )
        while True:
            names = {"id": last[0], "place": last[1], "document": document}
            page = [_chunk_of(row) for row in self._read(lambda values=names: self._all(query, values))]
            yield from page
            if len(page) < _PAGE:
                return
            last = (page[-1].document, page[-1].number)

    def close(self) -> None:
        """Give the connection free; a second time does nothing."""
        with self._one_at_a_time:
            self._connection.close()

    def _connect(self, *, create: bool, patience_seconds: float = 0.0) -> None:
        connection = self._server.connect(patience_seconds)
        try:
            prepare_connection(connection, self._server, self._schema, create=create)
        except self._errors.Error as error:
            connection.close()
            raise self._server.failure("refused", error) from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _read(self, work: Callable[[], _T]) -> _T:
        """Do something within a transaction that sees one state of the database."""

        def begin() -> _T:
            self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return work()

        return self._attempt(begin)

    def _write(self, work: Callable[[], None]) -> None:
        """Do something within a transaction; the row of the description lets one writer in at a time."""

        def begin() -> None:
            self._run("UPDATE description SET generation = generation + 1")
            work()

        self._attempt(begin)

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """Do something within a transaction, and once more over a new connection where the old one is lost."""
        with self._one_at_a_time:
            try:
                return self._transact(work)
            except UserError:
                if not self._connection.broken:
                    raise
            self._connection.close()
            self._connect(create=False, patience_seconds=_RESTART_SECONDS)
            return self._transact(work)

    def _transact(self, work: Callable[[], Any]) -> Any:
        refused = (self._errors.OperationalError, self._errors.errors.InsufficientPrivilege)
        try:
            with self._connection.transaction():
                return work()
        except (*refused, self._errors.errors.UndefinedTable) as error:
            raise self._server.failure("refused", error) from None

    def _run(self, query: str, values: object = None) -> Any:
        return self._connection.execute(query, values, binary=True)

    def _all(self, query: str, values: object = None) -> list[tuple[Any, ...]]:
        return self._run(query, values).fetchall()

    def _one(self, query: str, values: object = None) -> Any:
        row = self._run(query, values).fetchone()
        return None if row is None else row[0]

    def _identity(self) -> dict[str, object] | None:
        written = self._one("SELECT identity FROM description")
        return None if written is None else json.loads(written)

    def _dimension(self) -> int | None:
        return self._one("SELECT vector_dims(vector) FROM vectors LIMIT 1")

    def _insert(self, rows: Sequence[DocumentRow]) -> None:
        num_chunks = sum(len(row.chunks) for row in rows)
        number = self._one("SELECT setval('chunk_numbers', nextval('chunk_numbers') + %s)", (num_chunks,)) - num_chunks
        chunks: list[tuple[object, ...]] = []
        vectors: list[tuple[object, ...]] = []
        for row, document in zip(rows, self._insert_documents(rows), strict=True):
            for kept in row.chunks:
                chunk = kept.chunk
                # As JSON, because PostgreSQL takes no NUL character, which texts from PDF may hold.
                content = json.dumps([chunk.text, chunk.heading], ensure_ascii=False)
                chunks.append((number, document, chunk.number, chunk.start, chunk.end, content, kept.terms))
                if kept.vector is not None:
                    vectors.append((number, document, kept.vector))
                number += 1
        self._copy("chunks (number, document, place, first, past, content, terms)", chunks)
        self._copy("vectors (chunk, document, vector)", vectors)

    def _insert_documents(self, rows: Sequence[DocumentRow]) -> list[int]:
        query = (
            "INSERT INTO documents (id, content_hash, num_chunks, metadata, facets) VALUES (%s, %s, %s, %s, %s) "
            "RETURNING number"
        )
        values = [
            (
                row.document.id,
                row.document.content_hash,
                row.document.num_chunks,
                json.dumps(dict(row.metadata), ensure_ascii=False),
                list(row.facets),
            )
            for row in rows
        ]
        return [self._one(query, value) for value in values]

    def _copy(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def _index_name(self, dimension: int) -> str:
        return f"{_INDEX}_{dimension}"

    def _fit_vectors(self, dimension: int) -> None:
        """See that vectors of this length may be stored; an index that others left behind would refuse them."""
        stored = self._dimension()
        check_dimension(dimension, stored)
        if stored is None:
            left = self._all("SELECT indexname FROM pg_indexes WHERE schemaname = %s", (self._schema,))
            for (name,) in left:
                if name.startswith(_INDEX):
                    self._run(f"DROP INDEX {name}")

    def _fit_index(self, dimension: int) -> None:
        """Build the index of vectors where it pays; pgvector keeps it up to date from then on."""
        if dimension > _MOST_DIMENSIONS or self._has_index(dimension):
            return
        if self._one("SELECT count(*) FROM vectors") >= self._index_from:
            self._run(
                f"CREATE INDEX {self._index_name(dimension)} ON vectors "
                f"USING hnsw ((vector::vector({dimension})) vector_ip_ops)"
            )

    def _has_index(self, dimension: int) -> bool:
        return self._one("SELECT to_regclass(%s)", (self._index_name(dimension),)) is not None

    def _nearest(self, unit: NDArray[np.float32], wanted: int, filters: Filters | None) -> list[Found]:
        passes = "true"
        if filters:
            passes = "document IN (SELECT number FROM documents WHERE facets @> %(facets)s)"
        # The index is on an expression with the length, so that this one alone decides whether it is used.
        length = f"::vector({unit.size})" if self._use_index(unit.size, wanted, filters) else ""
        rows = self._all(
            f"SELECT {_COLUMNS}, v.vector FROM (SELECT chunk, vector FROM vectors WHERE {passes} "  # noqa: S608
            f"ORDER BY (vector{length}) <#> (%(unit)s::vector{length}) LIMIT %(wanted)s) v "
            "JOIN chunks c ON c.number = v.chunk JOIN documents d ON d.number = c.document",
            {"unit": unit, "wanted": wanted, "facets": list(facets_of(filters or {}))},
        )
        return [(_chunk_of(row), row[-1].to_numpy()) for row in rows]

    def _use_index(self, dimension: int, wanted: int, filters: Filters | None) -> bool:
        """Whether the index finds enough: it visits no more than 1,000 rows, and before 0.8 filters them afterwards."""
        if wanted > _MOST_EF or not self._has_index(dimension):
            return False
        self._run(f"SET LOCAL hnsw.ef_search = {max(wanted, _LEAST_EF)}")
        version = self._one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if tuple(int(part) for part in version.split(".")[:2]) >= (0, 8):
            self._run("SET LOCAL hnsw.iterative_scan = strict_order")
            return True
        return not filters

    def _refresh(self) -> None:
        """Bring memory to the state that this transaction reads."""
        generation = self._one("SELECT generation FROM description")
        if generation == self._resident.generation:
            return
        numbers = np.array(self._all("SELECT number FROM chunks"), np.int64).ravel()
        known = self._resident.update(numbers)
        rows = self._run("SELECT number, document, terms FROM chunks WHERE number > %s ORDER BY number", (known,))
        while page := rows.fetchmany(_LOADED):
            self._resident.add(*zip(*page, strict=True))
        self._resident.generation = generation

    def _passing(self, filters: Filters | None) -> list[int] | None:
        if not filters:
            return None
        return [
            row[0] for row in self._all("SELECT number FROM documents WHERE facets @> %s", (list(facets_of(filters)),))
        ]


def _chunk_of(row: Sequence[Any]) -> Chunk:
    text, heading = json.loads(row[5])
    return Chunk(row[1], row[2], row[3], row[4], text, heading, json.loads(row[6]))
