"""Rows out and in again: every kind of file, packed or not, whole or absent."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import refusal

from kivnun.data.files.write import open_writer

ROWS = [
    {"text": "שלום, עולם", "label": "a"},
    {"text": 'say "hi"\nand\r\nmore\rof it', "label": ""},
    {"text": "🎉", "label": "b", "more": "x"},
]
PACKED = ("", ".gz", ".bz2", ".xz", ".zst")


def write(path: str | Path, rows: Sequence[Mapping[str, object]]) -> None:
    with open_writer(Path(path)) as writer:
        for row in rows:
            writer.write(row)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.parquet"])
def test_rows_come_back_as_they_were_written(here: Path, name: str, packed: str) -> None:
    write(name + packed, ROWS)
    items = read_all(name + packed)
    empty = {"a.csv": {"more": ""}, "a.parquet": {"more": None}}.get(name, {})
    assert fields_in(items) == [{**row, **empty, **row} for row in ROWS]
    assert found_in(items) == []
    assert [path.name for path in here.iterdir()] == [name + packed]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.xz", "a.csv.zst", "a.tsv.bz2", "a.parquet"])
def test_the_same_rows_are_the_same_bytes(here: Path, name: str) -> None:
    rows = [{"a": str(number), "b": "x"} for number in range(500)]
    write("first." + name, rows)
    write("second." + name, rows)
    assert (here / f"first.{name}").read_bytes() == (here / f"second.{name}").read_bytes()


def test_a_packed_file_is_packed_for_everybody(here: Path) -> None:
    write("a.jsonl.gz", ROWS)
    packed = (here / "a.jsonl.gz").read_bytes()
    # The time that gzip keeps would make the same rows another file every second.
    assert packed[4:8] == bytes(4)
    lines = gzip.decompress(packed).decode().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_a_row_of_an_array_stands_on_a_line_of_its_own(here: Path) -> None:
    write("a.json", ROWS)
    assert json.loads((here / "a.json").read_text("utf-8")) == ROWS
    assert [row.line for row in rows_in(read_all("a.json"))] == [2, 3, 4]


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
tables = st.lists(st.fixed_dictionaries({"a long name": cells, "another, longer": cells}), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(rows=tables)
def test_any_text_survives_a_csv(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    write(tmp_path / "a.csv", rows)
    assert fields_in(read_all(tmp_path / "a.csv", header=True)) == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(texts=st.lists(cells, min_size=1, max_size=6))
def test_a_single_column_survives_a_csv_even_where_it_is_empty(tmp_path: Path, texts: list[str]) -> None:
    write(tmp_path / "a.csv", [{"the only column": text} for text in texts])
    assert [row["the only column"] for row in fields_in(read_all(tmp_path / "a.csv", header=True))] == texts


def test_values_that_are_no_texts_are_json_in_cells(here: Path) -> None:
    row = {"a": None, "b": True, "c": 1.5, "d": [{"e": "ש"}], "f": 7}
    write("a.csv", [row])
    assert fields_in(read_all("a.csv")) == [{"a": "", "b": "true", "c": "1.5", "d": '[{"e":"ש"}]', "f": "7"}]


@pytest.mark.parametrize("cell", ["a\tb", "a\nb", "a\r"])
def test_what_a_tsv_cannot_hold_is_refused_and_nothing_is_left(here: Path, cell: str) -> None:
    error = refusal(lambda: write("a.tsv", [*ROWS[:1], {"text": cell}]))
    assert error.code == "format-loss"
    assert list(here.iterdir()) == []


def test_a_tsv_holds_quotes_as_they_are(here: Path) -> None:
    write("a.tsv", [{"text": '"x" ,y', "label": "א"}])
    assert (here / "a.tsv").read_text("utf-8") == 'text\tlabel\n"x" ,y\tא\n'


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70).filter(lambda n: abs(n) < 2**63)
    | st.floats(-1e9, 1e9)
    | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)


def without_nulls(value: object) -> object:
    """A value without null keys of inner objects."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def is_same(found: object, wanted: object) -> bool:
    """Whether a value came back, as it was or as JSON text."""
    return found == without_nulls(wanted) or (
        isinstance(found, str) and not isinstance(wanted, str) and json.loads(found) == wanted
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(rows=st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=5))
def test_a_parquet_file_holds_every_value_as_it_is_or_as_json(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    write(tmp_path / "a.parquet", rows)
    back = fields_in(read_all(tmp_path / "a.parquet"))
    assert len(back) == len(rows)
    for row, again in zip(rows, back, strict=True):
        assert all(is_same(found, row.get(name)) for name, found in again.items())
        assert row.keys() <= again.keys()


def test_messages_are_stored_as_objects_and_odd_columns_as_json(here: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "מה?"}], "mixed": "text", "tools": [{"parameters": {}}]},
        {"messages": [{"role": "assistant", "content": "x", "weight": 0}], "mixed": ["a"], "tools": None},
    ]
    write("a.parquet", rows)
    assert fields_in(read_all("a.parquet")) == [
        {**rows[0], "tools": '[{"parameters":{}}]'},
        {**rows[1], "mixed": '["a"]'},
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"])
def test_an_error_leaves_the_old_file_and_nothing_else(here: Path, name: str) -> None:
    write(name, ROWS[2:])
    old = (here / name).read_bytes()

    def fail() -> None:
        with open_writer(Path(name)) as writer:
            writer.write(ROWS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (here / name).read_bytes() == old
    assert [path.name for path in here.iterdir()] == [name]
    write(name, ROWS[2:] * 2)
    assert len(rows_in(read_all(name))) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_no_rows_are_a_file_without_rows(here: Path, name: str) -> None:
    write(name, [])
    assert found_in(read_all(name)) == [("file-empty", 0)]


@pytest.mark.parametrize("value", [b"bytes", 2**70, "\ud800", {1: 2}])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_what_json_cannot_hold_is_refused(here: Path, name: str, value: object) -> None:
    error = refusal(lambda: write(name, [{"a": value}]))
    assert error.code == "format-loss"
    assert list(here.iterdir()) == []


def test_a_name_that_says_nothing_and_a_folder_that_is_not_there_are_errors(here: Path) -> None:
    assert refusal(lambda: write("a.xlsx", ROWS)).code == "data-format"
    error = refusal(lambda: write("nowhere/a.jsonl", ROWS))
    assert (error.code, error.problem) == (
        "file-unwritable",
        "cannot write nowhere/a.jsonl: no such file or directory",
    )
    (here / "a.jsonl").mkdir()
    assert refusal(lambda: write("a.jsonl", ROWS)).code == "file-unwritable"
    assert [path.name for path in here.iterdir()] == ["a.jsonl"]


def test_true_among_numbers_does_not_become_one(here: Path) -> None:
    write("a.parquet", [{"a": 1.5}, {"a": True}])
    assert [row["a"] for row in fields_in(read_all("a.parquet"))] == ["1.5", "true"]
