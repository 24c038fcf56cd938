"""Encodings: marks are dropped, UTF-16 is said, bytes that are not UTF-8 are named with their place and a guess."""

from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in, said_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import refusal

from kivnun.data.files.encoding import TextSource, decode, find_unicode, guess_encoding

TEXT = "text\tlabel\nאני שמח מאוד היום\tשמחה\nאני כועס 🎉\tכעס\nI am glad\tשמחה\n"
ROWS = [
    {"text": "אני שמח מאוד היום", "label": "שמחה"},
    {"text": "אני כועס 🎉", "label": "כעס"},
    {"text": "I am glad", "label": "שמחה"},
]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.json", "a.txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(here: Path, name: str) -> None:
    texts = {"a.jsonl": '{"text": "x"}\n', "a.json": '[{"text": "x"}]', "a.txt": "x"}
    (here / name).write_text("\ufeff" + texts.get(name, "text\nx\n"), "utf-8")
    items = read_all(name)
    assert [fields["text"] for fields in fields_in(items)] == ["x"]
    assert found_in(items) == [("encoding-bom", 1)]


@pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("text", [TEXT, TEXT + "ארוך מאוד\tשמחה\n" * 5000], ids=["mixed", "long"])
def test_utf_16_and_utf_32_are_told_and_read(here: Path, form: str, start: str, text: str) -> None:
    (here / "a.tsv").write_bytes((start + text).encode(form))
    items = read_all("a.tsv", header=True)
    assert ("encoding-utf16", 1) in found_in(items)
    assert fields_in(items)[:2] == ROWS[:2]
    assert said_in(items)[0] == f"a.tsv:1: the file is {form.upper()}, not UTF-8"


@given(text=st.text(st.characters(exclude_characters="\x00\x05", exclude_categories=["Cs"]), max_size=200))
def test_a_text_in_utf_8_is_never_taken_for_utf_16(text: str) -> None:
    form, mark = find_unicode(text.encode())
    assert form == "utf-8"
    assert mark == (b"\xef\xbb\xbf" if text.startswith("\ufeff") else b"")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_a_byte_that_is_not_utf_8_is_named_with_its_line_and_place(here: Path, name: str) -> None:
    starts = {"a.jsonl": '{"b": 1}\n', "a.json": '[{"b": 1},\n', "a.csv": "b\n", "a.tsv": "b\n", "a.txt": "אב\n"}
    ends = {"a.jsonl": ('{"b": "', '"}\n{"b": 2}'), "a.json": ('{"b": "', '"},\n{"b": 2}]')}
    before, after = ends.get(name, ("", "\n2\n"))
    start = starts[name].encode() + before.encode()
    (here / name).write_bytes(start + "שלום".encode("cp1255") + after.encode())
    items = read_all(name)
    place = f"byte {len(before) + 1} of the line, offset {len(start)} of the file"
    assert said_in(items) == [f"{name}:2: byte 0xf9 is not UTF-8 ({place}); cp1255 fits"]
    assert rows_in(items)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_with_the_right_encoding_every_row_is_read(here: Path, name: str) -> None:
    text = {"a.jsonl": '{"text": "שלום"}', "a.txt": "שלום"}.get(name, "text\nשלום\n")
    (here / name).write_bytes(text.encode("cp1255"))
    items = read_all(name, encoding="cp1255")
    assert found_in(items) == []
    assert [fields["text"] for fields in fields_in(items)] == ["שלום"]


def test_a_byte_that_the_given_encoding_does_not_have_ends_the_file_with_a_finding(here: Path) -> None:
    (here / "a.tsv").write_bytes(b"text\nx\ny\xff\n")
    assert said_in(read_all("a.tsv", encoding="cp1255")) == ["a.tsv:3: byte 0xff is not CP1255"]


def test_an_encoding_that_does_not_exist_is_an_error(here: Path) -> None:
    (here / "a.tsv").write_text("a\n1\n", "utf-8")
    error = refusal(lambda: read_all("a.tsv", encoding="klingon"))
    assert (error.code, error.problem) == ("data-encoding", "there is no encoding 'klingon'")


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("אני שמח מאוד היום, ומה שלומך?", "cp1255", "cp1255"),
        ("Wir wünschen uns schöne Grüße", "latin-1", "latin-1"),
        ("“Quoted” text – with dashes", "cp1252", "cp1252"),
        ("Съешь ещё этих мягких французских булок, да выпей же чаю", "cp1251", "cp1251"),
        ("plain", "ascii", None),
    ],
)
def test_the_encoding_of_single_bytes_is_guessed(text: str, encoding: str, guess: str | None) -> None:
    data = text.encode(encoding)
    assert guess_encoding(data) == guess
    assert guess is None or decode(data, guess) == text


def surrogate_bytes(text: str) -> bytes:
    """A text as Java and MySQL store it: characters beyond U+FFFF as two halves of three bytes each."""
    units = text.encode("utf-16-le")
    halves = "".join(chr(int.from_bytes(units[place : place + 2], "little")) for place in range(0, len(units), 2))
    return halves.encode("utf-8", "surrogatepass")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(text=st.text(st.characters(exclude_characters="\r\n\x00\x05\ufeff", exclude_categories=["Cs"]), min_size=1))
def test_cesu_8_is_guessed_and_read(tmp_path: Path, text: str) -> None:
    data = surrogate_bytes(text + "🎉")
    assert guess_encoding(data) == "cesu-8"
    assert decode(data, "cesu-8") == text + "🎉"
    (tmp_path / "a.tsv").write_bytes(b"a\tnumber\n" + data.replace(b"\t", b" ") + b"\t7\n")
    cells = [fields["a"] for fields in fields_in(read_all(tmp_path / "a.tsv", header=True, encoding="cesu-8"))]
    assert cells == [(text + "🎉").replace("\t", " ")]


def test_the_halves_of_a_character_are_joined_wherever_the_pieces_of_a_file_end(here: Path) -> None:
    text = "א🎉b" * 2000
    (here / "a.txt").write_bytes(surrogate_bytes(text))
    pieces = list(TextSource(here / "a.txt", "cesu-8").chunks(5))
    assert len(pieces) > 1000
    assert b"".join(pieces).decode() == text
