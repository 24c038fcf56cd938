"""What every store keeps to, whatever it is made of."""

import math

import numpy as np
import pytest
from store_samples import DIMENSION, StorePlace, entry, unit_rows

from kivnun.errors import UserError
from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.store import Filters, IndexedChunk, Store, StoredDocument

WORDS = [f"word{number}" for number in range(40)]


def _ids(found: list[tuple[Chunk, float]]) -> list[str]:
    return [chunk.id for chunk, _ in found]


def _fill(store: Store, count: int = 300) -> tuple[np.ndarray, list[list[str]], list[dict[str, int]]]:
    """Store one-chunk documents `0`, `1`, ...; their vectors, words and metadata."""
    rows = unit_rows(count)
    chance = np.random.default_rng(1)
    words = [[WORDS[at] for at in chance.integers(len(WORDS), size=chance.integers(1, 30))] for _ in range(count)]
    metadata = [{"year": 2000 + number % 7, "third": number % 3} for number in range(count)]
    entries = [
        entry(str(number), [" ".join(words[number])], vectors=[rows[number]], metadata=dict(metadata[number]))
        for number in range(count)
    ]
    for first in range(0, count, 100):
        store.replace_documents(entries[first : first + 100])
    return rows, words, metadata


def _passes(metadata: dict[str, int], filters: Filters | None) -> bool:
    return all(metadata.get(name) == value for name, value in (filters or {}).items())


def _bm25(query: list[str], documents: list[list[str]]) -> list[float]:
    """Robertson's BM25, one document after the other."""
    mean_length = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for term in query:
            containing = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            count = document.count(term)
            score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(document) / mean_length))
        scores.append(score)
    return scores


@pytest.mark.parametrize("filters", [None, {"year": 2003}, {"year": 2003, "third": 1}], ids=["all", "year", "both"])
def test_vectors_are_found_as_an_exact_scan_finds_them(place: StorePlace, filters: Filters | None) -> None:
    store = place.open()
    rows, _, metadata = _fill(store)
    for query in unit_rows(5, seed=9):
        cosines = rows.astype(np.float64) @ query
        passing = [number for number in range(len(rows)) if _passes(metadata[number], filters)]
        expected = sorted(passing, key=lambda number: (-cosines[number], f"{number}@0"))[:10]
        found = store.search_vector(query, 10, filters)
        assert _ids(found) == [f"{number}@0" for number in expected]
        np.testing.assert_allclose([score for _, score in found], cosines[expected], atol=1e-6)


@pytest.mark.parametrize("filters", [None, {"third": 2}], ids=["all", "third"])
def test_words_are_ranked_by_bm25_to_six_digits(place: StorePlace, filters: Filters | None) -> None:
    store = place.open()
    _, words, metadata = _fill(store)
    for query in (["word1"], ["word1", "word2", "word2"], ["word3", "nothing"], WORDS[5:15]):
        scores = _bm25(query, words)
        passing = [n for n in range(len(words)) if scores[n] > 0 and _passes(metadata[n], filters)]
        expected = sorted(passing, key=lambda number: (-round(scores[number], 9), f"{number}@0"))[:10]
        found = store.search_terms(query, 10, filters)
        assert _ids(found) == [f"{number}@0" for number in expected]
        np.testing.assert_allclose([score for _, score in found], [scores[n] for n in expected], rtol=1e-9)


@pytest.mark.parametrize("gone", [30, 200], ids=["few", "most"])
def test_what_is_deleted_or_replaced_is_found_by_nothing_and_weighs_nothing(place: StorePlace, gone: int) -> None:
    store = place.open()
    rows, words, _ = _fill(store)
    store.search_terms(["word1"], 1)
    store.delete_documents([str(number) for number in range(gone)])
    store.replace_documents([entry("299", ["word1 fresh", "fresh"], vectors=[rows[0], -rows[0]])])
    left = [*words[gone:299], ["word1", "fresh"], ["fresh"]]
    names = [*(f"{number}@0" for number in range(gone, 299)), "299@0", "299@1"]
    scores = dict(zip(names, _bm25(["word1"], left), strict=True))
    found = store.search_terms(["word1"], 500)
    assert _ids(found) == sorted((n for n in names if scores[n] > 0), key=lambda n: (-round(scores[n], 9), n))
    assert {chunk.id: score for chunk, score in found} == pytest.approx({n: s for n, s in scores.items() if s > 0})
    assert set(_ids(store.search_vector(rows[5], 500))) == set(names)
    assert _ids(store.search_vector(rows[0], 1)) == ["299@0"]
    assert [chunk.id for chunk in store.chunks("299")] == ["299@0", "299@1"]
    assert set(store.documents()) == {str(number) for number in range(gone, 300)}
    reopened = place.open(create=False)
    assert reopened.search_terms(["word1"], 500) == found
    assert reopened.documents() == store.documents()


def test_a_replaced_document_keeps_no_old_chunk(place: StorePlace) -> None:
    store = place.open()
    store.replace_documents([entry("a", ["one x", "two x", "three x"]), entry("b", ["x"])])
    store.replace_documents([entry("a", ["four x"], content_hash="new"), entry("c", [])])
    assert [chunk.text for chunk in store.chunks()] == ["four x", "x"]
    assert sorted(_ids(store.search_terms(["x"], 9))) == ["a@0", "b@0"]
    assert store.documents() == {
        "a": StoredDocument("a", "new", 1),
        "b": StoredDocument("b", "hash", 1),
        "c": StoredDocument("c", "hash", 0),
    }
    store.delete_documents(["c", "a"])
    assert list(store.documents()) == ["b"]


def test_a_chunk_comes_back_as_it_was_given(place: StorePlace) -> None:
    store = place.open()
    name = 'תיקייה/O\'Brien "x" %s\\ 100%_a@b#1 \U0001f600 ; DROP TABLE chunks; --'
    metadata = {"year": 2024, "share": 0.5, "open": True, "שם": "ערך ' \" \0 \\", "huge": 2**70}
    text = "שָׁלוֹם\u202e\0 world \U0001f600\r\n"
    given = entry(name, [text, "b"], vectors=[unit_rows(1)[0], None], metadata=metadata)
    store.replace_documents([given])
    assert list(place.open(create=False).chunks(name)) == [indexed.chunk for indexed in given[1]]
    for filters in ({"שם": "ערך ' \" \0 \\"}, {"huge": 2**70, "open": True}):
        assert store.search_terms(["world"], 5, filters)[0][0] == given[1][0].chunk
        assert store.search_vector(unit_rows(1)[0], 5, filters)[0][0] == given[1][0].chunk
    store.delete_documents([name])
    assert store.documents() == {}


def test_filters_tell_numbers_text_and_truth_apart(place: StorePlace) -> None:
    store = place.open()
    values = {"int": 1, "float": 1.0, "text": "1", "true": True, "other": 2}
    store.replace_documents(
        [entry(name, ["x"], vectors=[unit_rows(1)[0]], metadata={"v": v}) for name, v in values.items()]
    )
    store.replace_documents([entry("none", ["x"], vectors=[unit_rows(1)[0]])])
    for value, expected in (
        (1, ["float@0", "int@0"]),
        (1.0, ["float@0", "int@0"]),
        ("1", ["text@0"]),
        (True, ["true@0"]),
    ):
        assert _ids(store.search_terms(["x"], 9, {"v": value})) == expected
        assert _ids(store.search_vector(unit_rows(1)[0], 9, {"v": value})) == expected
    for nowhere in ({"v": 3}, {"w": 1}, {"v": 1, "w": 1}, {"v": "'"}):
        assert store.search_terms(["x"], 9, nowhere) == []
        assert store.search_vector(unit_rows(1)[0], 9, nowhere) == []


def test_ties_are_in_order_of_chunk_ids_also_where_k_cuts_them(place: StorePlace) -> None:
    store = place.open()
    names = [f"n{number}" for number in range(60)] + ["é", "ת", "Z", "a"]
    np.random.default_rng(3).shuffle(names)
    row = unit_rows(1)[0]
    store.replace_documents([entry(name, ["x y"], vectors=[row]) for name in names])
    expected = [f"{name}@0" for name in sorted(names, key=lambda name: f"{name}@0")]
    for k in (1, 7, 64, 100):
        assert _ids(store.search_vector(row, k)) == expected[:k]
        assert _ids(store.search_terms(["y"], k)) == expected[:k]
    store.replace_documents([entry("many", ["x"] * 12)])
    assert _ids(store.search_terms(["x"], 76))[:12] == sorted(f"many@{number}" for number in range(12))


def test_an_empty_store_finds_nothing(place: StorePlace) -> None:
    store = place.open()
    for _ in range(2):
        assert store.search_vector(unit_rows(1)[0], 3) == []
        assert store.search_terms(["x"], 3) == []
        assert store.search_terms([], 3, {"a": 1}) == []
        assert list(store.chunks()) == list(store.chunks("a")) == []
        assert store.documents() == {}
        assert store.identity() is None
        store.replace_documents([])
        store.delete_documents([])
        store.replace_documents([entry("a", ["x"], vectors=[unit_rows(1)[0]])])
        store.delete_documents(["a"])


def test_a_zero_vector_has_cosine_zero(place: StorePlace) -> None:
    store = place.open()
    row = unit_rows(1)[0]
    zero = np.zeros(DIMENSION, np.float32)
    store.replace_documents([entry("a", ["x"] * 4, vectors=[-row, zero, 3 * row, None])])
    assert store.search_vector(7 * row, 9) == [
        (chunk, pytest.approx(score, abs=1e-6))
        for chunk, score in zip(_chunks(store, 2, 1, 0), (1, 0, -1), strict=True)
    ]
    assert store.search_vector(zero, 9) == [(chunk, 0.0) for chunk in _chunks(store, 0, 1, 2)]


def _chunks(store: Store, *numbers: int) -> list[Chunk]:
    found = list(store.chunks("a"))
    return [found[number] for number in numbers]


def test_a_refused_call_changes_nothing(place: StorePlace) -> None:
    store = place.open()
    row = unit_rows(1)[0]
    store.replace_documents([entry("a", ["x"], vectors=[row])])
    chunk = Chunk("b", 0, 0, 1, "x")
    refused = [
        [entry("b", ["x"]), entry("b", ["y"])],
        [entry("a", ["y"]), (StoredDocument("b", "h", 2), [IndexedChunk(chunk, ("x",))])],
        [(StoredDocument("c", "h", 1), [IndexedChunk(chunk, ("x",))])],
        [(StoredDocument("b", "h", 2), [IndexedChunk(chunk, ("x",))] * 2)],
        [entry("c", ["y"]), entry("b", ["x"], vectors=[row[:5]])],
        [entry("b", ["x", "y"], vectors=[row, row[:5]])],
        [entry("b", ["x"], vectors=[np.full(DIMENSION, np.nan, np.float32)])],
    ]
    for documents in refused:
        with pytest.raises(ValueError, match=r"."):
            store.replace_documents(documents)
    for ids in (["b"], ["a", "b"], ["a", "a"]):
        with pytest.raises(ValueError, match=r"."):
            store.delete_documents(ids)
    for wrong in (row[:5], np.full(DIMENSION, np.inf, np.float32)):
        with pytest.raises(ValueError, match=r"."):
            store.search_vector(wrong, 1)
    for name, text in (("half \ud800", "x"), ("b", "half \ud800"), ("nul \0", "x")):
        with pytest.raises(UserError, match="store-failed"):
            store.replace_documents([entry(name, [text])])
    assert list(store.documents()) == ["a"]
    assert [found.text for found in store.chunks()] == ["x"]
    assert _ids(store.search_vector(row, 9)) == _ids(store.search_terms(["x", "y"], 9)) == ["a@0"]


def test_another_identity_is_refused_while_documents_are_stored(place: StorePlace) -> None:
    store = place.open()
    first = {"embedder": {"name": "שם", "dim": 3}, "analysis": (1, 2)}
    store.write_identity({"embedder": "x"})
    store.write_identity(first)
    store.replace_documents([entry("a", ["x"], vectors=[unit_rows(1)[0]])])
    store.write_identity(first)
    with pytest.raises(ValueError, match="identity"):
        store.write_identity({"embedder": "other"})
    reopened = place.open(create=False)
    assert reopened.identity() == store.identity() == {"embedder": {"name": "שם", "dim": 3}, "analysis": [1, 2]}
    store.delete_documents(["a"])
    reopened.write_identity({"embedder": "other"})
    assert store.identity() == {"embedder": "other"}
    longer = unit_rows(2, dimension=DIMENSION + 1)
    store.replace_documents([entry("a", ["x"], vectors=[longer[0]])])
    assert _ids(reopened.search_vector(longer[1], 3)) == ["a@0"]


def test_batches_larger_than_what_databases_take_at_once(place: StorePlace) -> None:
    store = place.open()
    count = 3000
    rows = unit_rows(count)
    entries = [entry(f"{number:04}", ["x"], vectors=[rows[number]]) for number in range(count - 1)]
    store.replace_documents([*entries, entry("long", ["x"] * 1200, vectors=[rows[-1]] * 1200)])
    store.replace_documents([*entries[:2500]])
    assert len(store.documents()) == count
    assert [chunk.id for chunk in store.chunks()][-1200:] == [f"long@{number}" for number in range(1200)]
    assert len(store.search_terms(["x"], 10_000)) == count + 1199
    assert len(store.search_vector(rows[0], 10_000)) == count + 1199
    store.delete_documents([f"{number:04}" for number in range(count - 1)])
    assert list(store.documents()) == ["long"]
    assert len(set(_ids(store.search_terms(["x"], 10_000)))) == 1200


def test_an_index_that_is_not_there_is_missing_and_is_not_made(place: StorePlace) -> None:
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            place.open(create=False)
        assert caught.value.code == "index-missing"
    store = place.open()
    store.close()
    store.close()
    assert place.open(create=False).documents() == {}
