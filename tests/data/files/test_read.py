"""Reading never raises for what a file holds: whatever bytes stand in it become rows or findings."""

from pathlib import Path

import pytest
from file_rows import found_in, read_all, rows_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivnun.data.files.dataset import DataFile
from kivnun.data.files.read import LAYOUTS, stream_rows

SIGNS = (
    b'{ } [ ] " , : \\ 1 - null "a" "a": "text" "data":[ "paragraphs":[ "qas":[ "answers":["x"] "Instances":['.split()
)
OTHERS = [b" ", b"\t", b"\r", b"\n", b"\x00", b"\xd7\xa9", b"\xf9", b"\xff\xfe", b"\xed\xa0\xbd", b"9" * 5000]
PIECES = st.sampled_from([*SIGNS, *OTHERS, b'"Definition":[', b'{"data":[', b'{"a": 1}\n', b"<|endoftext|>\n"])


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("parquet", "arrow")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.binary(max_size=80) | st.lists(PIECES, max_size=14).map(b"".join))
def test_no_bytes_at_all_make_reading_raise(tmp_path: Path, layout: str, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    columns = {"text": path, "label": path} if layout == "lines" else {}
    items = list(stream_rows(DataFile(path, layout, "train", "", columns=columns)))
    assert items
    assert all(row.line >= 1 for row in rows_in(items))
    assert all(line >= 0 for _, line in found_in(items))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.md", "a.parquet", "a.arrow"])
def test_an_empty_file_is_said_to_be_empty_or_unreadable(here: Path, name: str) -> None:
    (here / name).write_bytes(b"")
    unreadable = name in ("a.parquet", "a.arrow")
    assert found_in(read_all(name)) == [("file-unreadable" if unreadable else "file-empty", 0)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_gone_is_a_finding(here: Path, layout: str) -> None:
    columns = {"text": Path("gone")} if layout == "lines" else {}
    items = list(stream_rows(DataFile(Path("gone"), layout, "train", "", columns=columns)))
    assert found_in(items) == [("file-unreadable", 0)]
