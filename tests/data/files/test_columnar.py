"""Parquet and Arrow: rows by number, packed or not, and findings where they are damaged."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from file_rows import fields_in, found_in, read_all, rows_in
from pyarrow import feather, ipc, parquet

ROWS = [
    {"text": f"שלום {number}", "n": number, "messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}
    for number in range(3000)
]
TABLE = pa.Table.from_pylist([{**row, "none": None} for row in ROWS])


def write_stream(path: Path) -> None:
    with ipc.new_stream(path, TABLE.schema) as stream:
        stream.write_table(TABLE, max_chunksize=700)


def write_gzipped(path: Path) -> None:
    plain = path.with_name("plain")
    parquet.write_table(TABLE, plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))


WRITERS = {
    "a.parquet": lambda path: parquet.write_table(TABLE, path),
    "a.parquet.gz": write_gzipped,
    "a.arrow": write_stream,
    "a.feather": lambda path: feather.write_feather(TABLE, str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_back_by_number_and_without_null_keys_of_inner_objects(here: Path, name: str) -> None:
    WRITERS[name](here / name)
    items = read_all(name)
    assert fields_in(items) == [{**row, "none": None} for row in ROWS]
    assert [row.line for row in rows_in(items)] == list(range(1, 3001))
    assert found_in(items) == []


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_damaged_file_is_a_finding(here: Path, name: str, keep: float) -> None:
    WRITERS[name](here / name)
    data = (here / name).read_bytes()
    (here / name).write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    items = read_all(name)
    assert [code for code, _ in found_in(items)] in (["file-unreadable"], ["file-empty"])
    assert fields_in(items) == [{**row, "none": None} for row in ROWS[: len(rows_in(items))]]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_without_rows_is_said_to_be_empty(here: Path, name: str) -> None:
    empty = TABLE.slice(0, 0)
    if name == "a.parquet":
        parquet.write_table(empty, name)
    else:
        feather.write_feather(empty, name)
    assert found_in(read_all(name)) == [("file-empty", 0)]
