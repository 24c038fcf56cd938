"""Documents to store, and the places that they are stored in."""

import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kivnun.retrieval.passages import Chunk, MetadataValue
from kivnun.retrieval.store import IndexedChunk, Store, StoredDocument
from kivnun.retrieval.stores import open_store

KINDS = ("sqlite", "lancedb", "postgresql")
DIMENSION = 16
PROCESS = Path(__file__).with_name("store_process.py")

Entry = tuple[StoredDocument, list[IndexedChunk]]


class StorePlace:
    """A place for one index; what is opened here is closed with it."""

    def __init__(self, spec: str, parent: Path) -> None:
        self.spec = spec
        # On a server the folder's name is the index, so no two tests may share one.
        self.folder = parent / f"index {uuid.uuid4().hex}"
        self.folder.mkdir()
        self._opened: list[Store] = []
        self._processes: list[subprocess.Popen[str]] = []

    def open(self, *, create: bool = True) -> Store:
        """Open the index once more."""
        store = open_store(self.spec, self.folder, create=create)
        self._opened.append(store)
        return store

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a process that works on this index."""
        command = [sys.executable, str(PROCESS), self.spec, str(self.folder), *words]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def close_all(self) -> None:
        """End and close what was started and opened."""
        for process in self._processes:
            process.kill()
            process.communicate()
        for store in self._opened:
            store.close()


def entry(
    name: str,
    texts: Iterable[str],
    *,
    vectors: Iterable[np.ndarray | None] | None = None,
    metadata: dict[str, MetadataValue] | None = None,
    content_hash: str = "hash",
) -> Entry:
    """A document of chunks with these texts; their words are what stands between spaces."""
    written = list(texts)
    directions = [None] * len(written) if vectors is None else list(vectors)
    chunks = []
    start = 0
    for number, (text, vector) in enumerate(zip(written, directions, strict=True)):
        chunk = Chunk(name, number, start, start + len(text), text, f"part {number}", metadata or {})
        chunks.append(IndexedChunk(chunk, tuple(text.split()), vector))
        start += len(text)
    return StoredDocument(name, content_hash, len(chunks)), chunks


def unit_rows(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Random directions."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def round_entry(number: int, round_number: int) -> Entry:
    """Document `number` as it is in a round: how many chunks it has, and their words and vectors, tell the round."""
    count = 1 + (number + round_number) % 4
    texts = [f"common doc{number} round{round_number} part{part} of{count}" for part in range(count)]
    vectors = unit_rows(count, seed=number * 1000 + round_number)
    metadata: dict[str, MetadataValue] = {"number": number, "round": round_number}
    return entry(f"doc {number:03}", texts, vectors=vectors, metadata=metadata, content_hash=str(round_number))
