"""Files in, rows out: every format, every line number, every complaint."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import refusal

from kivnun.data.sources import first_problems, read_rows, read_text

ROWS = [{"text": "I am glad", "tone": "joy"}, {"text": "אני כועס, מאוד", "tone": "כעס"}, {"text": "🎉", "tone": "joy"}]
JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
CSV = 'text,tone\nI am glad,joy\n"אני כועס, מאוד",כעס\n🎉,joy\n'
TSV = "text\ttone\nI am glad\tjoy\nאני כועס, מאוד\tכעס\n🎉\tjoy\n"
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=1)
FORMATS = {"a.jsonl": JSONL, "a.ndjson": JSONL, "a.json": ARRAY, "a.csv": CSV, "a.tsv": TSV}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_every_format_gives_the_same_rows(here: Path, name: str, start: str, newline: str) -> None:
    (here / name).write_bytes((start + FORMATS[name].replace("\n", newline)).encode())
    assert [dict(row.fields) for row in read_rows(name)] == ROWS


@pytest.mark.parametrize("name", FORMATS)
def test_packed_files_are_read_like_plain_ones(here: Path, name: str) -> None:
    (here / f"{name}.gz").write_bytes(gzip.compress(FORMATS[name].encode()))
    (here / f"{name}.xz").write_bytes(lzma.compress(FORMATS[name].encode()))
    assert [row.fields for row in read_rows(f"{name}.gz")] == ROWS
    assert [row.fields for row in read_rows([f"{name}.xz"])] == ROWS


def test_rows_remember_their_line(here: Path) -> None:
    (here / "a.jsonl").write_text('{"a": 1}\n\n  \n{"a": 2}', "utf-8")
    (here / "a.tsv").write_text("a\tb\n1\t2\n\n3\t4\n", "utf-8")
    (here / "a.json").write_text('[{"a": 1},\n{"a": 2}]', "utf-8")
    assert [row.where for row in read_rows("a.jsonl")] == ["a.jsonl:1", "a.jsonl:4"]
    assert [row.where for row in read_rows("a.tsv")] == ["a.tsv:2", "a.tsv:4"]
    assert [row.where for row in read_rows("a.json")] == ["a.json:1", "a.json:2"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_quoted_line_breaks_do_not_shift_the_lines_of_a_csv(here: Path, newline: str) -> None:
    text = 'a,b\n"one\ntwo\nthree",x\n\nfour,"say ""hi"""\n'
    (here / "a.csv").write_bytes(text.replace("\n", newline).encode())
    rows = read_rows("a.csv")
    assert [row.where for row in rows] == ["a.csv:2", "a.csv:6"]
    assert rows[0].fields["a"] == f"one{newline}two{newline}three"
    assert rows[1].fields["b"] == 'say "hi"'


def test_a_quote_is_a_plain_character_in_a_tsv(here: Path) -> None:
    (here / "a.tsv").write_text('a\tb\n"x\ty"\n', "utf-8")
    assert [row.fields for row in read_rows("a.tsv")] == [{"a": '"x', "b": 'y"'}]


def test_several_files_follow_one_another(here: Path) -> None:
    (here / "a.jsonl").write_text(JSONL, "utf-8")
    (here / "a.csv").write_text(CSV, "utf-8")
    assert [row.fields for row in read_rows(["a.jsonl", "a.csv"])] == ROWS + ROWS


def test_column_files_run_in_parallel(here: Path) -> None:
    (here / "text.txt").write_bytes("one\r\nשתיים\r\n".encode())
    (here / "label.txt").write_text("0\n1", "utf-8")
    rows = read_rows({"text": "text.txt", "label": "label.txt"})
    assert [row.fields for row in rows] == [{"text": "one", "label": "0"}, {"text": "שתיים", "label": "1"}]
    assert [row.where for row in rows] == ["text.txt:1", "text.txt:2"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_text_file_holds_documents_between_separator_lines(here: Path, newline: str) -> None:
    text = "one\n\nmore\n<|endoftext|>\n\n<|endoftext|>\nשתיים\n"
    (here / "book.txt").write_bytes(text.replace("\n", newline).encode())
    rows = read_rows("book.txt")
    assert [row.fields for row in rows] == [
        {"text": "one\n\nmore", "source": "book"},
        {"text": "שתיים", "source": "book"},
    ]
    assert [row.where for row in rows] == ["book.txt:1", "book.txt:7"]


def test_a_packed_file_that_was_damaged_is_refused(here: Path) -> None:
    packed = bytearray(gzip.compress(JSONL.encode()))
    # Behind the header: the first byte of the packed stream names a kind of block that does not exist.
    packed[10] = 0xFF
    (here / "a.jsonl.gz").write_bytes(packed)
    error = refusal(lambda: read_rows("a.jsonl.gz"))
    assert error.code == "data-malformed"
    assert "a.jsonl.gz: cannot be unpacked" in error.problem


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("a.jsonl", "", "data-empty", "a.jsonl: no rows"),
        ("a.json", "[]", "data-empty", "a.json: no rows"),
        ("a.csv", "", "data-empty", "a.csv: no rows"),
        ("a.csv", "text,tone\n", "data-empty", "a.csv: no rows"),
        ("a.tsv", "", "data-empty", "a.tsv: no rows"),
        ("a.txt", "\n\n", "data-empty", "a.txt: no rows"),
        ("a.parquet", "x", "data-malformed", "a.parquet: cannot be read: "),
        ("a.arrow", "x", "data-malformed", "a.arrow: cannot be read: "),
        ("a.xlsx", "x", "data-format", "a.xlsx: cannot tell the format"),
        ("noending", "x", "data-format", "noending: cannot tell the format"),
        ("a.jsonl", '{"a": 1}\n{"a": 1\n', "data-malformed", "a.jsonl:2: "),
        ("a.jsonl", '{"a": 1}\n[1, 2]\n', "data-malformed", "a.jsonl:2: expected an object {...}, got [1, 2]"),
        ("a.jsonl", '{"a": NaN}\n', "data-malformed", '(column 7): {"a": NaN}'),
        ("a.json", '[{"א": "ב"},\n{"a": }]', "data-malformed", "a.json:2: "),
        ("a.json", '{"a": 1}', "data-malformed", "a.json: expected an array of objects, got dict"),
        ("a.json", '[{"a": 1}, 7]', "data-malformed", "a.json:1: expected an object {...}, got 7"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "data-malformed", "a.csv:3: 3 cells where the header has 2"),
        ("a.csv", 'a,b\n1,2\n"1,2\n3,4\n', "data-malformed", "a.csv:3: a quote is opened here and never closed"),
        ("a.csv", "a,a\n1,2\n", "data-malformed", "a.csv:1: column names must be unique"),
        ("a.tsv", "a\ta\n1\t2\n", "data-malformed", "a.tsv:1: column names must be unique"),
        ("a.tsv", "a\tb\n1\n", "data-malformed", "a.tsv:2: 1 cells where the header has 2"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', "data-malformed", "a.jsonl:1: the key 'a' stands twice in one object"),
        ("a.jsonl.gz", "not packed", "data-malformed", "a.jsonl.gz:1: "),
        ("a.jsonl.xz", "", "data-empty", "a.jsonl.xz: no rows"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(here: Path, name: str, text: str, code: str, words: str) -> None:
    (here / name).write_text(text, "utf-8")
    error = refusal(lambda: read_rows(name))
    assert error.code == code
    assert words in "\n".join([error.problem, *error.details])


def test_a_missing_file_is_named(here: Path) -> None:
    assert (here / "folder").mkdir() is None
    for name in ("nowhere.jsonl", "folder"):
        error = refusal(lambda name=name: read_text(Path(name)))
        assert error.code == "data-missing"
        assert name in error.problem


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_text_in_another_encoding_is_refused_with_line_and_byte(here: Path, start: bytes) -> None:
    (here / "a.jsonl").write_bytes(start + b'{"a": 1}\n' + "שלום".encode("cp1255") + b"\n")
    error = refusal(lambda: read_rows("a.jsonl"))
    assert error.code == "data-encoding"
    said = f"byte 1 of the line, offset {len(start) + 9} of the file"
    assert error.problem == f"a.jsonl:2: byte 0xf9 is not UTF-8 ({said}); cp1255 fits"


def test_column_files_of_different_length_are_refused_with_their_counts(here: Path) -> None:
    (here / "x.txt").write_text("1\n2\n", "utf-8")
    (here / "y.txt").write_text("1\n", "utf-8")
    error = refusal(lambda: read_rows({"text": "x.txt", "label": "y.txt"}))
    assert error.code == "data-malformed"
    assert error.details == ("x.txt: lines that go together differ in number: x.txt (text) has 2, y.txt (label) has 1",)


def test_all_bad_lines_are_told_at_once_but_not_hundreds(here: Path) -> None:
    (here / "a.jsonl").write_text("{\n" * 100, "utf-8")
    error = refusal(lambda: read_rows("a.jsonl"))
    assert error.problem == "100 malformed row(s) in a.jsonl"
    assert len(error.details) == 21
    assert error.details[-1] == "... and 80 more"
    assert first_problems(["one"]) == ["one"]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.lists(cells, min_size=1, max_size=5))
def test_any_text_survives_jsonl_json_and_csv(tmp_path: Path, values: list[str]) -> None:
    # Names that are longer than any value: a header whose words stand in their columns would be taken for a row.
    rows = [{"the first column": value, "the second column": "x"} for value in values]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8", newline=""
    )
    (tmp_path / "a.json").write_text(json.dumps(rows), "utf-8")
    quoted = ['"' + value.replace('"', '""') + '",x' for value in values]
    (tmp_path / "a.csv").write_text("\n".join(["the first column,the second column", *quoted]), "utf-8", newline="")
    for name in ("a.jsonl", "a.json", "a.csv"):
        assert [row.fields for row in read_rows(str(tmp_path / name))] == rows
