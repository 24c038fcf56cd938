"""What only the store in LanceDB has: an index of vectors above a size."""

from pathlib import Path

import numpy as np
import pytest
from store_samples import entry, unit_rows

from kivnun.errors import UserError
from kivnun.retrieval.lance_store import LanceStore

pytest.importorskip("lancedb")


def test_the_index_of_vectors_finds_nearly_all_and_what_was_added_after_it(tmp_path: Path) -> None:
    store = LanceStore(tmp_path, create=True, index_from=1000)
    rows = unit_rows(1100, dimension=32)
    entries = [
        entry(str(number), ["x"], vectors=[row], metadata={"tenth": number % 10}) for number, row in enumerate(rows)
    ]
    store.replace_documents(entries[:1000])
    assert [index.columns for index in store._table.list_indices()] == [["direction"]]
    store.replace_documents(entries[1000:])
    store.delete_documents(["3", "1003"])
    hits, expected_hits = 0, 0
    for query in unit_rows(20, seed=5, dimension=32):
        for filters in (None, {"tenth": 4}):
            cosines = rows @ query
            cosines[[3, 1003]] = -2
            if filters:
                cosines[np.arange(1100) % 10 != 4] = -2
            expected = {str(number) for number in np.argsort(-cosines)[:10]}
            hits += len(expected & {chunk.document for chunk, _ in store.search_vector(query, 10, filters)})
            expected_hits += 10
    assert hits >= 0.97 * expected_hits
    assert store.search_vector(rows[1005], 1)[0][0].document == "1005"


def test_a_damaged_or_newer_index_is_said(tmp_path: Path) -> None:
    store = LanceStore(tmp_path, create=True)
    store.replace_documents([entry("a", ["x"])])
    for content, code in (('{"format": 99}', "store-failed"), ("no json", "store-failed"), ("[]", "store-failed")):
        (tmp_path / "lancedb.json").write_text(content)
        with pytest.raises(UserError) as caught:
            LanceStore(tmp_path, create=False)
        assert caught.value.code == code
    (tmp_path / "lancedb.json").write_text('{"format": 1, "identity": null}')
    for file in tmp_path.rglob("*"):
        if file.is_file() and "chunks.lance" in str(file):
            file.write_bytes(b"garbage")
    with pytest.raises(UserError, match="store-failed"):
        LanceStore(tmp_path, create=False).documents()
