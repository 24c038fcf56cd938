"""How fast and how right the stores of passages are, and whether they survive kill -9.

    .venv/bin/python bench/retrieval_stores.py --chunks 50000 --kills 10 [--stores sqlite,lancedb] [--json FILE]

The chunks are made up: about 110 words each out of 30,000 by Zipf's law, vectors of 384 numbers in 500 clusters. A
query is six different words of a chunk, and a vector beside one. `postgresql` starts a server of its own through
pgserver. Times are by the clock; `cpu_ms` beside them is what the process used, all threads together, which a busy
machine changes less.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.store import IndexedChunk, Store, StoredDocument
from kivnun.retrieval.stores import open_store

DIMENSION = 384
K = 10
NUM_WORDS = 30_000
BATCH = 500
KILL_DOCUMENTS = 40


@dataclass
class Corpus:
    """Chunks, and queries with what is right for them."""

    words: list[list[str]]
    vectors: np.ndarray
    query_words: list[list[str]]
    query_vectors: np.ndarray

    @property
    def years(self) -> np.ndarray:
        """What is filtered by: one in a hundred."""
        return np.arange(len(self.words)) % 100


def make_corpus(num_chunks: int, num_queries: int, seed: int = 0) -> Corpus:
    chance = np.random.default_rng(seed)
    shares = 1 / np.arange(1, NUM_WORDS + 1) ** 1.05
    lengths = np.clip(chance.normal(110, 30, num_chunks), 5, 250).astype(int)
    drawn = chance.choice(NUM_WORDS, lengths.sum(), p=shares / shares.sum())
    vocabulary = [f"w{number}" for number in range(NUM_WORDS)]
    words = [[vocabulary[at] for at in part] for part in np.split(drawn, np.cumsum(lengths)[:-1])]
    centres = _unit(chance.standard_normal((500, DIMENSION)))
    vectors = _unit(
        centres[chance.integers(500, size=num_chunks)] + 0.06 * chance.standard_normal((num_chunks, DIMENSION))
    )
    chosen = chance.choice(num_chunks, num_queries, replace=False)
    query_words = [list(chance.permutation(sorted(set(words[at])))[:6]) for at in chosen]
    query_vectors = _unit(vectors[chosen] + 0.03 * chance.standard_normal((num_queries, DIMENSION)))
    return Corpus(words, vectors, query_words, query_vectors)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def measure(store: Store, reopen: Callable[[], Store], corpus: Corpus, disk: Callable[[], float]) -> dict[str, object]:
    ingest_seconds = _ingest(store, corpus)
    store.close()
    store = reopen()
    first_vector = _seconds(lambda: store.search_vector(corpus.query_vectors[0], K))
    first_terms = _seconds(lambda: store.search_terms(corpus.query_words[0], K))
    filters = {"year": 7}
    passing = np.flatnonzero(corpus.years == 7)
    queries = list(zip(corpus.query_vectors, corpus.query_words, strict=True))
    timings: dict[str, np.ndarray] = {}
    found, timings["dense"] = _timed(lambda vector, _: store.search_vector(vector, K), queries)
    filtered, timings["filtered"] = _timed(lambda vector, _: store.search_vector(vector, K, filters), queries)
    _, timings["lexical"] = _timed(lambda _, words: store.search_terms(words, K), queries)
    _, timings["hybrid"] = _timed(lambda vector, words: _hybrid(store, vector, words), queries)
    result: dict[str, object] = {
        "ingest_s": round(ingest_seconds, 2),
        "disk_mb": round(disk(), 1),
        "first_dense_s": round(first_vector, 3),
        "first_lexical_s": round(first_terms, 3),
        "recall_at_10": _recall(found, corpus, np.arange(len(corpus.words))),
        "filtered_recall_at_10": _recall(filtered, corpus, passing),
    }
    for name, (wall, cpu) in timings.items():
        p50, p99 = np.percentile(wall * 1000, [50, 99])
        result[name] = {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "cpu_ms": round(cpu.mean() * 1000, 2)}
    one = _seconds(lambda: store.replace_documents([_entry(corpus, 0)]))
    after = _seconds(lambda: _hybrid(store, *queries[0]))
    store.close()
    return result | {"replace_one_ms": round(one * 1000, 1), "hybrid_after_a_change_ms": round(after * 1000, 1)}


def _hybrid(store: Store, vector: np.ndarray, words: list[str]) -> list[tuple[Chunk, float]]:
    """What a hybrid search asks of a store; the fusion of 100 scores costs nothing beside it."""
    return store.search_vector(vector, 50) + store.search_terms(words, 50)


def _entry(corpus: Corpus, at: int) -> tuple[StoredDocument, list[IndexedChunk]]:
    text = " ".join(corpus.words[at])
    chunk = Chunk(f"doc {at:07}", 0, 0, len(text), text, "", {"year": int(corpus.years[at]), "kind": "txt"})
    return StoredDocument(chunk.document, "hash", 1), [IndexedChunk(chunk, tuple(corpus.words[at]), corpus.vectors[at])]


def _ingest(store: Store, corpus: Corpus) -> float:
    started = time.perf_counter()
    for first in range(0, len(corpus.words), BATCH):
        store.replace_documents([_entry(corpus, at) for at in range(first, min(first + BATCH, len(corpus.words)))])
    return time.perf_counter() - started


def _recall(found: list[list[tuple[Chunk, float]]], corpus: Corpus, passing: np.ndarray) -> float:
    hits = 0
    for query, chunks in zip(corpus.query_vectors, found, strict=True):
        best = passing[np.argsort(-(corpus.vectors[passing].astype(np.float64) @ query))[:K]]
        hits += len({f"doc {at:07}" for at in best} & {chunk.document for chunk, _ in chunks})
    return round(hits / (min(K, len(passing)) * len(found)), 4)


def _timed(
    work: Callable[[np.ndarray, list[str]], list[tuple[Chunk, float]]], queries: list[tuple[np.ndarray, list[str]]]
) -> tuple[list[list[tuple[Chunk, float]]], np.ndarray]:
    """What each query finds, and its seconds by the clock and of the processors."""
    found = []
    seconds = np.zeros((2, len(queries)))
    for at, (vector, words) in enumerate(queries):
        wall, cpu = time.perf_counter(), time.process_time()
        found.append(work(vector, words))
        seconds[:, at] = time.perf_counter() - wall, time.process_time() - cpu
    return found, seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _round_entry(number: int, round_number: int) -> tuple[StoredDocument, list[IndexedChunk]]:
    """Document `number` as it is in a round; how many chunks it has depends on both."""
    count = 1 + (number + round_number) % 5
    vector = np.eye(DIMENSION, dtype=np.float32)[number]
    chunks = []
    for part in range(count):
        text = f"common doc{number} round{round_number} of{count} " * 20
        chunk = Chunk(f"d{number}", part, 0, len(text), text, "", {"number": number})
        chunks.append(IndexedChunk(chunk, tuple(text.split()), vector))
    return StoredDocument(f"d{number}", str(round_number), count), chunks


def ingest_for_ever(spec: str, folder: Path) -> None:
    store = open_store(spec, folder, create=True)
    round_number = 1 + max((int(known.content_hash) for known in store.documents().values()), default=-1)
    while True:
        for first in range(0, KILL_DOCUMENTS, 10):
            store.replace_documents([_round_entry(number, round_number) for number in range(first, first + 10)])
            print(first, round_number, flush=True)
        round_number += 1


def kill_often(spec: str, folder: Path, kills: int) -> dict[str, int]:
    chance = np.random.default_rng(0)
    counts = {"kills": kills, "acknowledged": 0, "lost": 0, "half_documents": 0, "unopenable": 0}
    for _ in range(kills):
        command = [sys.executable, __file__, "--child", spec, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            said = child.stdout or sys.stdin
            lines = [said.readline()]
            time.sleep(float(chance.uniform(0, 1.0)))
            os.kill(child.pid, signal.SIGKILL)
            lines += said.readlines()
        counts["acknowledged"] += 10 * len(lines)
        try:
            _count_damage(spec, folder, lines, counts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is counted
            print(f"  after a kill: {error!r}", file=sys.stderr)
            counts["unopenable"] += 1
    return counts


def _count_damage(spec: str, folder: Path, lines: list[str], counts: dict[str, int]) -> None:
    store = open_store(spec, folder, create=False)
    known = store.documents()
    for line in lines:
        first, round_number = map(int, line.split())
        for number in range(first, first + 10):
            counts["lost"] += int(known[f"d{number}"].content_hash) < round_number
    for name, document in known.items():
        right = [indexed.chunk for indexed in _round_entry(int(name[1:]), int(document.content_hash))[1]]
        found = sorted(
            (chunk for chunk, _ in store.search_terms([f"doc{name[1:]}"], 99)), key=lambda chunk: chunk.number
        )
        near = store.search_vector(np.eye(DIMENSION, dtype=np.float32)[int(name[1:])], 99)
        by_vector = {chunk.id for chunk, score in near if score > 0.5}
        whole = list(store.chunks(name)) == right == found and by_vector == {chunk.id for chunk in right}
        counts["half_documents"] += not whole
    store.close()


@contextmanager
def _server(spec: str) -> Iterator[str]:
    if spec != "postgresql":
        yield spec
        return
    from pgserver import get_server  # pyright: ignore[reportPrivateImportUsage]

    folder = Path(tempfile.mkdtemp(prefix="kivnun-pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _size_mb(spec: str, folder: Path) -> float:
    if spec.startswith("postgres"):
        import psycopg

        with psycopg.connect(spec) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return (row[0] if row else 0) / 1e6
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def run(kind: str, corpus: Corpus, kills: int) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="kivnun-store-"))
    try:
        with _server(kind) as spec:
            store = open_store(spec, folder, create=True)
            result = measure(
                store, lambda: open_store(spec, folder, create=False), corpus, lambda: _size_mb(spec, folder)
            )
            if kills:
                other = folder / f"{folder.name}-killed"
                other.mkdir()
                result["kill_9"] = kill_often(spec, other, kills)
            return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--stores", default="sqlite,lancedb,postgresql")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("SPEC", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        ingest_for_ever(options.child[0], Path(options.child[1]))
        return
    corpus = make_corpus(options.chunks, options.queries)
    results: dict[str, object] = {"chunks": options.chunks, "load": os.getloadavg(), "cores": os.cpu_count()}
    for kind in options.stores.split(","):
        results[kind] = run(kind, corpus, options.kills)
        print(f"{kind} ({options.chunks} chunks, load {os.getloadavg()[0]:.1f})", file=sys.stderr)
        print(json.dumps(results[kind], indent=2), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
