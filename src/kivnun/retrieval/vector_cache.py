"""Vectors that were computed, kept beside an index, so that no passage is embedded twice."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kivnun.retrieval.embedders import Embedder

CACHE_NAME = "vectors.sqlite"
_MAX_PARAMETERS = 500


class VectorCache:
    """A file of vectors by the hash of text and embedder.

    Args:
        path: The file.
        embedder: What embeds the texts that are not in it.
    """

    def __init__(self, path: Path, embedder: Embedder) -> None:
        self._embedder = embedder
        self._prefix = json.dumps(dict(embedder.identity), sort_keys=True).encode() + b"\0"
        self._connection = sqlite3.connect(path, isolation_level=None)
        # A lost cache costs time, no truth: the index has its vectors itself.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        self._used: set[bytes] = set()
        self.num_embedded = 0
        self.num_known = 0

    def embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vectors of passages, in their order."""
        keys = [hashlib.sha256(self._prefix + text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        self._used.update(keys)
        known = self._read(keys)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if new:
            vectors = self._embedder.embed_documents(list(new.values()))
            known.update(zip(new, vectors, strict=True))
            rows = [(key, known[key].astype("<f4").tobytes()) for key in new]
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        self.num_embedded += len(new)
        self.num_known += len(texts) - len(new)
        return [known[key] for key in keys]

    def forget_others(self) -> None:
        """Forget what was not asked for since the cache was opened."""
        stored = [key for (key,) in self._connection.execute("SELECT key FROM vectors")]
        others = [(key,) for key in stored if key not in self._used]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("DELETE FROM vectors WHERE key = ?", others)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Give the file free."""
        self._connection.close()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _MAX_PARAMETERS):
            part = keys[start : start + _MAX_PARAMETERS]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)  # noqa: S608
            found.update({key: np.frombuffer(vector, "<f4") for key, vector in rows})
        return found


def identity_changes(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """What differs between two descriptions, by name."""
    return sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
