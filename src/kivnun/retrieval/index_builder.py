"""Bringing a store up to date with documents: what is new or changed is cut, embedded and kept, batch by batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.retrieval.analysis import analyse
from kivnun.retrieval.chunks import count_words, cut
from kivnun.retrieval.documents import RECORD_SUFFIXES, read_documents
from kivnun.retrieval.embedders import Embedder, name_embedder
from kivnun.retrieval.passages import Chunk, Document, Unchanged, Unreadable
from kivnun.retrieval.reranker import join_heading
from kivnun.retrieval.store import IndexedChunk, Store, StoredDocument
from kivnun.retrieval.vector_cache import VectorCache

if TYPE_CHECKING:
    from kivnun.recipe.retrieval import RetrievalSection

Log = Callable[[str, Mapping[str, object]], None]
"""Takes events: `indexing` with `done` and `total` documents, `chunks` so far, and `seconds`."""

BATCH_CHUNKS = 256
BATCH_DOCUMENTS = 256


@dataclass(frozen=True)
class IndexReport:
    """What an indexing did.

    Attributes:
        folder: The index.
        documents: Documents that it has now.
        chunks: Passages that it has now.
        added: Documents that are new.
        changed: Documents whose content is another than before.
        unchanged: Documents that were there already.
        removed: Documents that are no longer there, or can no longer be read.
        embedded: Passages that were turned into vectors; the vectors of others were known.
        not_understood: Of the passages that came in now, those that the embedder cannot read: only words find them.
        unreadable: Files and records that could not be read, and why.
        notes: What else should be known, such as guessed encodings.
        seconds: How long it took.
    """

    folder: str
    documents: int
    chunks: int
    added: int
    changed: int
    unchanged: int
    removed: int
    embedded: int
    not_understood: int
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def has_changed(self) -> bool:
        """Whether the index is another than before."""
        return bool(self.added or self.changed or self.removed)

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class IndexPlan:
    """What an indexing would do.

    Attributes:
        added: Documents that are new.
        changed: Documents whose content is another than before.
        unchanged: Documents that are there already.
        removed: Documents that would be removed.
        characters: Text that would be cut and embedded.
        unreadable: Files and records that cannot be read, and why.
    """

    added: int
    changed: int
    unchanged: int
    removed: int
    characters: int
    unreadable: tuple[Unreadable, ...]

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)


class Builder:
    """What changed since the last time, counted while it is brought into a store.

    Args:
        store: Where to.
        settings: How documents are cut.
        embedder: What counts tokens; None for words.
        cache: What embeds; None where there is no embedder.
        log: Takes the progress.
    """

    def __init__(
        self,
        store: Store,
        settings: "RetrievalSection",
        embedder: Embedder | None,
        cache: VectorCache | None,
        log: Log,
    ) -> None:
        self._store = store
        self._settings = settings
        self._embedder = embedder
        self._cache = cache
        self._log = log
        self._known = store.documents()
        self._seen: set[str] = set()
        self._waiting: list[tuple[Document, list[Chunk]]] = []
        self._unreadable: list[Unreadable] = []
        self._notes: list[str] = [embedder.note] if embedder is not None and embedder.note else []
        self._counts = dict.fromkeys(("added", "changed", "unchanged", "removed", "not_understood", "chunks"), 0)
        self._done = self._total = 0
        self._started = time.monotonic()
        self.dim: int | None = None

    def update(self, paths: Sequence[Path]) -> None:
        """Bring the store up to date; each batch is kept before the next one is read.

        Args:
            paths: Files and folders.

        Raises:
            UserError: `document-unreadable` where nothing can be read: then what was indexed stays.
        """
        self._total = count_documents(paths)
        hashes = {name: document.content_hash for name, document in self._known.items()}
        for found in read_documents(paths, skip=hashes):
            self._done += 1
            if isinstance(found, Unreadable):
                self._unreadable.append(found)
            elif isinstance(found, Unchanged):
                self._seen.add(found.id)
                self._counts["unchanged"] += 1
            else:
                self._take(found)
        self._keep()
        _require_documents(self._seen, self._unreadable, paths)
        vanished = sorted(set(self._known) - self._seen)
        if vanished:
            self._store.delete_documents(vanished)
        self._counts["removed"] = len(vanished)

    def report(self, folder: Path, seconds: float) -> IndexReport:
        """What was done.

        Args:
            folder: The index.
            seconds: How long it took.
        """
        documents = self._store.documents()
        counts = self._counts
        return IndexReport(
            folder=str(folder),
            documents=len(documents),
            chunks=sum(document.num_chunks for document in documents.values()),
            added=counts["added"],
            changed=counts["changed"],
            unchanged=counts["unchanged"],
            removed=counts["removed"],
            embedded=self._cache.num_embedded if self._cache is not None else 0,
            not_understood=counts["not_understood"],
            unreadable=tuple(self._unreadable),
            notes=(*self._notes, *self._say_not_understood()),
            seconds=seconds,
        )

    def _take(self, document: Document) -> None:
        count = self._embedder.count_tokens if self._embedder is not None else count_words
        settings = self._settings
        chunks = cut(
            document, count_tokens=count, max_tokens=settings.chunk_tokens, overlap=settings.chunk_overlap_tokens
        )
        self._seen.add(document.id)
        self._notes += [f"{document.id}: {note}" for note in document.notes]
        self._waiting.append((document, chunks))
        num_chunks = sum(len(waiting) for _, waiting in self._waiting)
        if num_chunks >= BATCH_CHUNKS or len(self._waiting) >= BATCH_DOCUMENTS:
            self._keep()

    def _keep(self) -> None:
        """Embed what waits, and store it in one transaction."""
        if not self._waiting:
            return
        passages = [(chunk, self._passage(document, chunk)) for document, chunks in self._waiting for chunk in chunks]
        vectors = iter(self._embed([passage for _, passage in passages]))
        indexed = iter([IndexedChunk(chunk, tuple(analyse(text)), next(vectors, None)) for chunk, text in passages])
        rows = [
            (StoredDocument(document.id, document.content_hash, len(chunks)), [next(indexed) for _ in chunks])
            for document, chunks in self._waiting
        ]
        self._store.replace_documents(rows)
        for document, _ in self._waiting:
            self._counts["changed" if document.id in self._known else "added"] += 1
        self._counts["chunks"] += len(passages)
        self._waiting.clear()
        fields = {"done": self._done, "total": max(self._total, self._done), "chunks": self._counts["chunks"]}
        self._log("indexing", {**fields, "seconds": time.monotonic() - self._started})

    def _embed(self, passages: list[str]) -> list[NDArray[np.float32]]:
        if self._cache is None or self._embedder is None or not passages:
            return []
        self._counts["not_understood"] += sum(not self._embedder.can_read(passage) for passage in passages)
        vectors = self._cache.embed(passages)
        self.dim = len(vectors[0])
        return vectors

    def _passage(self, document: Document, chunk: Chunk) -> str:
        """What a chunk is found by: its text behind the document's title and its headings, as far as there is room."""
        above = chunk.heading
        if document.title and document.title not in above and not chunk.text.startswith(document.title):
            above = f"{document.title} > {above}" if above else document.title
        if self._embedder is not None and self._embedder.max_tokens is not None:
            above = self._clip(above, self._embedder.max_tokens - self._embedder.count_tokens(chunk.text))
        return join_heading(above, chunk.text)

    def _clip(self, above: str, room: int) -> str:
        assert self._embedder is not None  # noqa: S101 - asked for only where there is one
        words = above.split()
        while words and self._embedder.count_tokens(" ".join(words)) > room:
            words.pop()
        return " ".join(words)

    def _say_not_understood(self) -> list[str]:
        count = self._counts["not_understood"]
        if not count or self._embedder is None:
            return []
        name = name_embedder(self._embedder.identity)
        return [f"the embedder {name} cannot read the language of {count} passages: only words find them"]


def plan_update(known: Mapping[str, StoredDocument], paths: Sequence[Path]) -> IndexPlan:
    """What bringing a store up to date would do.

    Args:
        known: What is stored.
        paths: Files and folders.

    Raises:
        UserError: `document-unreadable` where nothing can be read.
    """
    hashes = {name: document.content_hash for name, document in known.items()}
    read: dict[str, int] = {}
    unchanged: set[str] = set()
    unreadable: list[Unreadable] = []
    for found in read_documents(paths, skip=hashes):
        if isinstance(found, Unreadable):
            unreadable.append(found)
        elif isinstance(found, Unchanged):
            unchanged.add(found.id)
        else:
            read[found.id] = len(found.text)
    seen = read.keys() | unchanged
    _require_documents(seen, unreadable, paths)
    changed = len(read.keys() & known.keys())
    characters = sum(read.values())
    removed = len(set(known) - seen)
    return IndexPlan(len(read) - changed, changed, len(unchanged), removed, characters, tuple(unreadable))


def count_documents(paths: Sequence[Path]) -> int:
    """About how many documents there are, for saying how much is left: files, and lines of JSONL files."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    return sum(_count_lines(file) if file.suffix.lower() in RECORD_SUFFIXES else 1 for file in files if file.is_file())


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 1


def _require_documents(seen: set[str], unreadable: Sequence[Unreadable], paths: Sequence[Path]) -> None:
    if seen:
        return
    lines = [f"{each.path}: {each.problem}" for each in unreadable]
    problem = f"none of the documents in {', '.join(map(str, paths))} can be read"
    hint = "name files or folders of txt, md, html, pdf, docx or JSONL with the fields id and text"
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    raise UserError("document-unreadable", problem, details=[*lines[:10], *more], hint=hint)
