"""Plain text: documents with the line on which they begin, and files that run in parallel."""

from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in, said_in

from kivnun.data.files.dataset import DataFile
from kivnun.data.files.read import stream_rows


@pytest.mark.parametrize("name", ["story.txt", "story.he.md"])
def test_a_file_without_separators_is_one_document(here: Path, name: str) -> None:
    (here / name).write_text("\n\nשורה\n\n# another\n\n", "utf-8")
    items = read_all(name)
    assert fields_in(items) == [{"text": "שורה\n\n# another", "source": "story"}]
    assert found_in(items) == []


def test_documents_stand_between_separator_lines(here: Path) -> None:
    (here / "a.txt").write_text("one\n<|endoftext|>\n\n \n <|endoftext|> \nשתיים\n<|endoftext|>", "utf-8")
    items = read_all("a.txt")
    assert [(row.line, row.fields["text"]) for row in rows_in(items)] == [(1, "one"), (6, "שתיים")]


def in_parallel(**files: str) -> DataFile:
    columns = {name: Path(path) for name, path in files.items()}
    return DataFile(next(iter(columns.values())), "lines", "train", "", columns=columns)


def test_parallel_files_give_one_row_for_each_line_empty_ones_too(here: Path) -> None:
    (here / "x").write_text("a\n\nשלום", "utf-8")
    (here / "y").write_bytes(b"1\r\n2\r\n3\r\n")
    items = list(stream_rows(in_parallel(text="x", label="y")))
    assert fields_in(items) == [
        {"text": "a", "label": "1"},
        {"text": "", "label": "2"},
        {"text": "שלום", "label": "3"},
    ]
    assert [row.where for row in rows_in(items)] == ["x:1", "x:2", "x:3"]


def test_parallel_files_of_different_length_are_one_finding_with_their_counts(here: Path) -> None:
    (here / "x").write_text("a\nb\n", "utf-8")
    (here / "y").write_text("1\n2\n3\n", "utf-8")
    items = list(stream_rows(in_parallel(text="x", label="y")))
    assert said_in(items) == ["x: lines that go together differ in number: x (text) has 2, y (label) has 3"]
    assert found_in(items) == [("columns-unequal", 0)]


def test_a_bad_byte_in_one_of_parallel_files_does_not_shift_the_others(here: Path) -> None:
    (here / "x").write_bytes(b"a\n\xf9\xe1\xe2\nc\n")
    (here / "y").write_text("1\n2\n3\n", "utf-8")
    items = list(stream_rows(in_parallel(text="x", label="y")))
    assert fields_in(items) == [{"text": "a", "label": "1"}, {"text": "c", "label": "3"}]
    assert found_in(items) == [("encoding-not-utf8", 2)]
