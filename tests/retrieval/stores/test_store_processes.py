"""What every store keeps to while several processes work on it, and when one is killed."""

import time
from collections import Counter

import numpy as np
import pytest
from store_process import BATCH, NUM_DOCUMENTS
from store_samples import StorePlace, entry, round_entry

from kivnun.retrieval.store import Store


def _check_whole(store: Store) -> dict[str, int]:
    """See that every document is wholly of one round, whatever way it is asked for; the round of each."""
    stored = store.documents()
    by_document: dict[str, list[str]] = {}
    for chunk in store.chunks():
        by_document.setdefault(chunk.document, []).append(chunk.text)
    expected = {name: round_entry(int(name[4:]), int(known.content_hash))[1] for name, known in stored.items()}
    assert by_document == {name: [indexed.chunk.text for indexed in chunks] for name, chunks in expected.items()}
    every = sorted(indexed.chunk.id for chunks in expected.values() for indexed in chunks)
    assert sorted(chunk.id for chunk, _ in store.search_terms(["common"], 10_000)) == every
    for name, chunks in expected.items():
        assert sorted(chunk.id for chunk, _ in store.search_terms([f"doc{int(name[4:])}"], 99)) == sorted(
            indexed.chunk.id for indexed in chunks
        )
    if expected:
        query = next(iter(expected.values()))[0].vector
        assert query is not None
        assert sorted(chunk.id for chunk, _ in store.search_vector(query, 10_000)) == every
    return {name: int(known.content_hash) for name, known in stored.items()}


@pytest.mark.parametrize("kill", range(2))
def test_a_killed_ingest_loses_nothing_that_was_acknowledged_and_leaves_no_half_document(
    place: StorePlace, kill: int
) -> None:
    ingest = place.start("ingest")
    assert ingest.stdout is not None
    acknowledged = [ingest.stdout.readline()]
    time.sleep(float(np.random.default_rng(kill).uniform(0, 0.7)))
    ingest.kill()
    acknowledged += ingest.stdout.readlines()
    store = place.open(create=False)
    rounds = _check_whole(store)
    for line in acknowledged:
        first, round_number = map(int, line.split())
        batch = {rounds[f"doc {number:03}"] for number in range(first, first + BATCH)}
        assert len(batch) == 1
        assert batch.pop() >= round_number
    store.replace_documents([round_entry(number, 1000) for number in range(NUM_DOCUMENTS)])
    assert set(_check_whole(store).values()) == {1000}


def test_a_reader_sees_what_another_process_writes_and_never_a_half(place: StorePlace) -> None:
    reader = place.open()
    assert reader.search_terms(["common"], 9) == []
    ingest = place.start("ingest")
    assert ingest.stdout is not None
    states = set()
    seen: set[str] = set()
    for _ in range(10):
        ingest.stdout.readline()
        found = reader.search_terms(["common"], 10_000)
        parts = Counter(chunk.document for chunk, _ in found)
        assert seen <= set(parts)
        seen = set(parts)
        assert all(parts[chunk.document] == int(chunk.text.split("of")[-1]) for chunk, _ in found)
        states.add(tuple(sorted((chunk.id, chunk.text) for chunk, _ in found)))
    ingest.kill()
    ingest.wait()
    assert len(states) > 2
    _check_whole(reader)


def test_writers_in_several_processes_take_turns_and_make_no_duplicates(place: StorePlace) -> None:
    store = place.open()
    names = [f"n{number}" for number in range(8)]
    writer = place.start("write", "by0", ",".join(names))
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("\n")
    writer.stdin.flush()
    for name in names:
        store.replace_documents([entry(name, [f"by1 {name}", "by1"]), entry(f"own {name}", ["by9", "by9"])])
    assert writer.communicate()[0] == "done\n"
    assert writer.returncode == 0
    assert list(store.documents()) == sorted([*names, *(f"own {name}" for name in names)])
    for name in names:
        texts = [chunk.text for chunk in store.chunks(name)]
        assert texts in ([f"by0 {name}", "by0"], [f"by1 {name}", "by1"])
    found = store.search_terms(["by0", "by1", "by9"], 999)
    assert len({chunk.id for chunk, _ in found}) == len(found) == 32
