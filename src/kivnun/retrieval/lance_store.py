"""The store for many chunks without a server: a LanceDB table below the index's folder.

One table holds everything, so that each change is one commit of LanceDB: documents and their chunks are seen together
or not at all. A document without chunks is one row with place -1. Numbers grow with the table's version, which LanceDB
never gives twice.
"""

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.retrieval.nearest import Found, rank_nearest
from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.resident import Candidates, Resident
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
from kivnun.retrieval.writer_lock import only_writer
from kivnun.runs.atomic import disk_full_as_user_error, write_atomic

DESCRIPTION = "lancedb.json"
INDEX_FROM = 100_000
"""Chunks from which an approximate index pays: a flat scan of 50,000 takes 30 ms, the index 15 s to build."""

_TABLE = "chunks"
_LOCK = "lancedb.lock"
_FORMAT = 1
_VERSION_BITS = 24
_COMPACT_EVERY = 50
_KEEP_VERSIONS = timedelta(minutes=10)
_PAGE = 500
# LanceDB treats columns with `vector` or `embedding` in their names in its own way, and refuses nulls there.
_VECTOR = "direction"
_CHUNK_COLUMNS = ["number", "document", "place", "first", "past", "text", "heading", "metadata"]
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("document_number", pa.int64()),
        ("document", pa.string()),
        ("content_hash", pa.string()),
        ("num_chunks", pa.int64()),
        ("metadata", pa.string()),
        ("facets", pa.list_(pa.string())),
        ("place", pa.int64()),
        ("first", pa.int64()),
        ("past", pa.int64()),
        ("text", pa.large_string()),
        ("heading", pa.string()),
        ("terms", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class _Known:
    """The documents of one version of the table."""

    version: int
    documents: dict[str, StoredDocument]
    numbers: dict[str, int]

    @property
    def num_chunks(self) -> int:
        """Chunks of all of them."""
        return sum(document.num_chunks for document in self.documents.values())


class LanceStore:
    """Chunks in one LanceDB table."""

    def __init__(self, folder: Path, *, create: bool, index_from: int = INDEX_FROM) -> None:
        """Open the store in a folder.

        Raises:
            UserError: `dependency-missing` without LanceDB; `index-missing` where there is none; `store-failed`.
        """
        self._folder = folder
        self._index_from = index_from
        self._one_at_a_time = threading.RLock()
        self._resident = Resident()
        self._known = _Known(-1, {}, {})
        self._lancedb = _import_lancedb()
        with _refusals(folder):
            self._database = self._lancedb.connect(folder, read_consistency_interval=timedelta(0))
        if not (folder / DESCRIPTION).is_file():
            if not create:
                hint = "make the index with `kivnun index`, or name the folder of one"
                raise UserError("index-missing", f"there is no index at {folder / DESCRIPTION}", hint=hint)
            with only_writer(folder / _LOCK):
                if not (folder / DESCRIPTION).is_file():
                    self._describe(None)
        self._check_format()
        self._table = self._open_table()
        self._pinned = self._table
        self._version = -1

    def identity(self) -> Mapping[str, object] | None:
        """The index's own description; None where none was written."""
        return self._description()["identity"]

    def write_identity(self, identity: Mapping[str, object]) -> None:
        """Write the description.

        Raises:
            ValueError: Documents are stored under another one.
        """
        with self._writing():
            check_identity(identity, self.identity(), len(self._read_known().documents))
            self._describe(identity)

    def documents(self) -> dict[str, StoredDocument]:
        """Every document that is stored, by its id."""
        with self._using():
            found = self._read_known().documents
            return {name: found[name] for name in sorted(found)}

    def replace_documents(self, documents: Sequence[tuple[StoredDocument, Sequence[IndexedChunk]]]) -> None:
        """Store documents with all their chunks in one commit, in place of what they had before.

        Raises:
            ValueError: An id is given twice, chunks do not belong to their document, or vectors have another length
                than those that stay.
            UserError: `store-failed`, `disk-full`.
        """
        rows = prepare_documents(documents)
        if not rows:
            return
        with self._writing():
            known = self._read_known()
            gone = [known.numbers[row.document.id] for row in rows if row.document.id in known.numbers]
            self._fit_vectors(dimension_of(rows), gone)
            base = (self._table.version + 1) << _VERSION_BITS
            batch = self._batch(rows, base)
            if gone:
                merge = self._table.merge_insert("number").when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(_any_of("document_number", gone)).execute(batch)
            else:
                self._table.add(batch)
            known.documents.update((row.document.id, row.document) for row in rows)
            known.numbers.update((row.document.id, base + offset) for offset, row in enumerate(rows))
            self._tidy(known)

    def delete_documents(self, ids: Sequence[str]) -> None:
        """Remove documents with their chunks.

        Raises:
            ValueError: An id is unknown or given twice.
            UserError: `store-failed`, `disk-full`.
        """
        with self._writing():
            known = self._read_known()
            check_known(ids, set(known.numbers))
            if ids:
                self._table.delete(_any_of("document_number", [known.numbers[name] for name in ids]))
                for name in ids:
                    del known.documents[name], known.numbers[name]
                self._tidy(known)

    def search_vector(
        self, vector: NDArray[np.float32], k: int, filters: Filters | None = None
    ) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest cosine that pass the filters, best first; ties by chunk id.

        Raises:
            ValueError: The vector has another length than those that are stored.
        """
        unit = unit_vector(vector)
        with self._using():
            dimension = self._dimension()
            if dimension is None:
                return []
            check_dimension(unit.size, dimension)
            return rank_nearest(lambda wanted: self._nearest(unit, wanted, filters), unit, k)

    def search_terms(self, terms: Sequence[str], k: int, filters: Filters | None = None) -> list[tuple[Chunk, float]]:
        """The `k` chunks of greatest BM25 that pass the filters, best first; ties by chunk id."""
        with self._using():
            self._refresh()
            candidates = self._resident.best_worded(terms, k, self._passing(filters))
            chunks = self._chunks_of(candidates)
        scored = zip(candidates.numbers.tolist(), candidates.scores.tolist(), strict=True)
        pairs = [(chunks[number], score) for number, score in scored]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0].id))[:k]

    def chunks(self, document: str | None = None) -> Iterator[Chunk]:
        """All chunks, or those of one document, in order of document and number."""
        with self._using():
            self._pin()
            known = self._read_known()
            if document is not None and document not in known.numbers:
                return
            where = "place >= 0"
            if document is not None:
                where += f" AND document_number = {known.numbers[document]}"
            found = self._select(["number", "document", "place"], where).to_pylist()
        found.sort(key=lambda row: (row["document"], row["place"]))
        for at in range(0, len(found), _PAGE):
            numbers = [row["number"] for row in found[at : at + _PAGE]]
            with self._using():
                page = self._chunks_of(Candidates(np.array(numbers, np.int64), np.zeros(len(numbers))))
            yield from (page[number] for number in numbers if number in page)

    def close(self) -> None:
        """Give the folder free; LanceDB keeps no file open between calls."""

    @contextmanager
    def _using(self) -> Generator[None]:
        with self._one_at_a_time, _refusals(self._folder):
            yield

    @contextmanager
    def _writing(self) -> Generator[None]:
        with self._using(), only_writer(self._folder / _LOCK), disk_full_as_user_error(self._folder):
            yield

    def _description(self) -> dict[str, Any]:
        with _refusals(self._folder):
            try:
                found = json.loads((self._folder / DESCRIPTION).read_bytes())
            except ValueError as error:
                raise OSError(f"{DESCRIPTION} is no JSON") from error
            if not isinstance(found, dict) or "identity" not in found:
                raise OSError(f"{DESCRIPTION} is not an index's description")
            return found

    def _describe(self, identity: Mapping[str, object] | None) -> None:
        description = {"format": _FORMAT, "identity": None if identity is None else dict(identity)}
        write_atomic(self._folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")

    def _check_format(self) -> None:
        found = self._description().get("format")
        if found != _FORMAT:
            problem = f"the index in {self._folder} has format {found}; this program knows {_FORMAT}"
            raise UserError("store-failed", problem, hint="use the Kivnun that made it, or index again")

    def _open_table(self) -> Any:
        with self._writing():
            try:
                return self._database.open_table(_TABLE)
            except ValueError:
                return self._database.create_table(_TABLE, schema=_SCHEMA)

    def _pin(self) -> None:
        """Read from the newest version until the next call, whatever others write meanwhile."""
        if self._table.version != self._version:
            self._pinned = self._database.open_table(_TABLE)
            self._version = self._pinned.version
            self._pinned.checkout(self._version)

    def _select(self, columns: list[str], where: str) -> pa.Table:
        return self._pinned.search().where(where).select(columns).limit(self._pinned.count_rows() + 1).to_arrow()

    def _read_known(self) -> _Known:
        """The documents, read again where others have changed the table."""
        if self._table.version != self._known.version:
            self._pin()
            columns = ["document", "document_number", "content_hash", "num_chunks"]
            rows = self._select(columns, "place <= 0").to_pylist()
            documents = [StoredDocument(row["document"], row["content_hash"], row["num_chunks"]) for row in rows]
            numbers = {row["document"]: row["document_number"] for row in rows}
            self._known = _Known(self._version, {found.id: found for found in documents}, numbers)
        return self._known

    def _dimension(self) -> int | None:
        names = self._table.schema.names
        return self._table.schema.field(_VECTOR).type.list_size if _VECTOR in names else None

    def _fit_vectors(self, given: int | None, gone: Sequence[int]) -> None:
        """Give the table a column for vectors of the length given, where it has none or an empty one."""
        stored = self._dimension()
        if given is None or given == stored:
            return
        if stored is not None:
            others = f"{_VECTOR} IS NOT NULL" + (f" AND NOT ({_any_of('document_number', gone)})" if gone else "")
            if self._table.count_rows(others):
                check_dimension(given, stored)
            self._table.drop_columns([_VECTOR])
        self._table.add_columns(pa.field(_VECTOR, pa.list_(pa.float32(), given)))

    def _batch(self, rows: Sequence[DocumentRow], base: int) -> pa.Table:
        values: list[dict[str, object]] = []
        vectors: list[NDArray[np.float32] | None] = []
        for offset, row in enumerate(rows):
            shared = _describe_document(row, base + offset)
            for kept in row.chunks:
                chunk = kept.chunk
                own = {"place": chunk.number, "first": chunk.start, "past": chunk.end, "text": chunk.text}
                values.append(shared | own | {"heading": chunk.heading, "terms": kept.terms})
                vectors.append(kept.vector)
            if not row.chunks:
                values.append(shared | {"place": -1, "first": 0, "past": 0, "text": "", "heading": "", "terms": b""})
                vectors.append(None)
        for offset, value in enumerate(values):
            value["number"] = base + offset
        batch = pa.Table.from_pylist(values, schema=_SCHEMA)
        dimension = self._dimension()
        if dimension is None:
            return batch
        column = pa.array(vectors, pa.list_(pa.float32(), dimension))
        return batch.append_column(pa.field(_VECTOR, column.type), column)

    def _tidy(self, known: _Known) -> None:
        """Join small files from time to time, and build or extend the index of vectors where it pays."""
        if self._table.version // _COMPACT_EVERY != known.version // _COMPACT_EVERY:
            self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)
        if known.num_chunks >= self._index_from and self._dimension() is not None and not self._table.list_indices():
            self._table.create_index(_VECTOR, config=self._lancedb.index.HnswSq(distance_type="dot"))
        self._known = replace(known, version=self._table.version)

    def _nearest(self, unit: NDArray[np.float32], wanted: int, filters: Filters | None) -> list[Found]:
        query = self._table.search(unit, vector_column_name=_VECTOR).distance_type("dot").refine_factor(3).ef(100)
        if filters:
            query = query.where(_passes(filters), prefilter=True)
        rows = query.select([*_CHUNK_COLUMNS, _VECTOR, "_distance"]).limit(wanted).to_arrow().to_pylist()
        return [(_chunk_of(row), np.array(row[_VECTOR], np.float32)) for row in rows]

    def _refresh(self) -> None:
        """Bring memory to the newest version."""
        self._pin()
        if self._version == self._resident.generation:
            return
        known = self._resident.update(self._select(["number"], "place >= 0")["number"].to_numpy())
        columns = ["number", "document_number", "terms"]
        new = self._select(columns, f"place >= 0 AND number > {known}").sort_by("number").to_pydict()
        self._resident.add(new["number"], new["document_number"], new["terms"])
        self._resident.generation = self._version

    def _passing(self, filters: Filters | None) -> list[int] | None:
        if not filters:
            return None
        return self._select(["document_number"], f"place = 0 AND {_passes(filters)}")["document_number"].to_pylist()

    def _chunks_of(self, candidates: Candidates) -> dict[int, Chunk]:
        if not candidates.numbers.size:
            return {}
        rows = self._select(_CHUNK_COLUMNS, _any_of("number", candidates.numbers.tolist())).to_pylist()
        return {row["number"]: _chunk_of(row) for row in rows}


def _import_lancedb() -> Any:
    try:
        import lancedb.index  # noqa: PLC0415 - an extra
    except ImportError as error:
        hint = "pip install 'kivnun[lance]'"
        raise UserError("dependency-missing", "the store `lancedb` needs the package lancedb", hint=hint) from error
    return lancedb


@contextmanager
def _refusals(folder: Path) -> Generator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        hint = "see that the folder can be read and written; if it is damaged, delete it and index again"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError("store-failed", f"the index in {folder} cannot be used: {reason}", hint=hint) from error


def _describe_document(row: DocumentRow, number: int) -> dict[str, object]:
    return {
        "document_number": number,
        "document": row.document.id,
        "content_hash": row.document.content_hash,
        "num_chunks": row.document.num_chunks,
        "metadata": json.dumps(dict(row.metadata), ensure_ascii=False),
        "facets": [facet.hex() for facet in row.facets],
    }


def _any_of(column: str, numbers: Sequence[int]) -> str:
    return f"{column} IN ({', '.join(map(str, numbers))})"


def _passes(filters: Filters) -> str:
    return " AND ".join(f"array_has(facets, '{facet.hex()}')" for facet in facets_of(filters))


def _chunk_of(row: Mapping[str, Any]) -> Chunk:
    metadata = json.loads(row["metadata"])
    return Chunk(row["document"], row["place"], row["first"], row["past"], row["text"], row["heading"], metadata)
