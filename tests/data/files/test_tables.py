"""Tables: headers are told from rows, records keep their line, broken ones are named where they begin."""

import csv
import io
from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in, said_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivnun.data.files.find import describe_file
from kivnun.data.files.tables import looks_like_row, separator_of

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\x05"), max_size=8)


def quote(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6), newline=st.sampled_from(["\n", "\r\n", "\r"]))
def test_quoted_cells_may_hold_anything(tmp_path: Path, rows: list[tuple[str, str]], newline: str) -> None:
    lines = ["first,second", *(f"{quote(first)},{quote(second)}" for first, second in rows)]
    (tmp_path / "a.csv").write_text(newline.join(lines) + newline, "utf-8", newline="")
    items = read_all(tmp_path / "a.csv", header=True)
    assert fields_in(items) == [{"first": first, "second": second} for first, second in rows]
    assert found_in(items) == []


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        (["text\tlabel", "I am glad\tjoy", "So am I\tjoy"], True),
        (["comment\tlabel", "כל הכבוד\t0", "לא טוב\t1"], True),
        (["כל הכבוד\t0", "לא טוב\t1"], False),
        (["1.5\tx", "2\ty"], False),
        (["I am glad\tjoy", "So am I\tjoy", "No\tanger"], False),
        (["I am glad\tjoy", "So am I\tanger", "No\tfear"], True),
        # Two tables that were put together: the second one's header is no proof.
        (["text\tlabel", "I am glad\tjoy", "text\tlabel", "No\tanger"], True),
        (["text\tlabel"], True),
        (["2\t3"], False),
    ],
)
def test_a_first_line_is_a_row_if_it_has_numbers_or_values_of_its_columns(
    here: Path, lines: list[str], *, header: bool
) -> None:
    (here / "a.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    (here / "a.csv").write_text("\n".join(lines).replace("\t", ",") + "\n", "utf-8")
    for name in ("a.tsv", "a.csv"):
        items = read_all(name)
        assert ("csv-no-header" in [code for code, _ in found_in(items)]) is not header
        assert len(rows_in(items)) == len(lines) - header
        if not header:
            assert list(fields_in(items)[0]) == ["column_1", "column_2"]
            assert found_in(items) == [("csv-no-header", 1)]


def test_what_the_user_says_of_the_header_holds(here: Path) -> None:
    (here / "a.csv").write_text("text,label\none,0\n", "utf-8")
    (here / "b.csv").write_text("0,1\none,0\n", "utf-8")
    assert fields_in(read_all("a.csv", header=False))[0] == {"column_1": "text", "column_2": "label"}
    assert found_in(read_all("a.csv", header=False)) == []
    assert fields_in(read_all("b.csv", header=True)) == [{"0": "one", "1": "0"}]


def test_a_word_that_once_stands_in_its_own_column_of_a_long_table_is_chance() -> None:
    rows = [[f"text {number}", f"label {number % 3}"] for number in range(300)]
    assert not looks_like_row(["text", "label"], [*rows, ["text", "label 0"]])
    assert looks_like_row(["text", "label 0"], rows)


@pytest.mark.parametrize(
    ("text", "found", "num_rows"),
    [
        ("a,b\n1,2\n1,2,3\n4\n5,6\n", ["3: 3 cells where the header has 2", "4: 1 cells where the header has 2"], 2),
        ('a,b\n1,2\n"x,y\n3,4\n', ["3: a quote is opened here and never closed"], 1),
        ('a,b\n"one\ntwo",2\n"x" y,2\n3,4\n', ["4: ',' expected after '\"'"], 2),
        ("a,a\n1,2\n", ["1: column names must be unique and not empty: ['a', 'a']"], 0),
        (",\nx,y\n", ["1: column names must be unique and not empty: ['', '']"], 0),
        ("column_2,\nx,y\n", ["1: column names must be unique and not empty: ['column_2', '']"], 0),
        (",text\nx,y\n", ["1: column 1 has no name and is called column_1"], 1),
    ],
)
def test_a_broken_record_is_named_by_the_line_on_which_it_begins(
    here: Path, text: str, found: list[str], num_rows: int
) -> None:
    (here / "a.csv").write_text(text, "utf-8")
    items = read_all("a.csv", header=True)
    assert said_in(items) == [f"a.csv:{line}" for line in found]
    assert len(rows_in(items)) == num_rows


def test_a_cell_may_be_longer_than_the_library_reads_of_itself(here: Path) -> None:
    (here / "a.csv").write_text("text,label\n" + "שלום" * 200_000 + ",x\n", "utf-8")
    assert [len(str(fields["text"])) for fields in fields_in(read_all("a.csv"))] == [800_000]


def test_every_bad_record_of_a_csv_is_named_and_the_others_are_read(here: Path) -> None:
    (here / "a.csv").write_bytes("text,label\nאחת,1x\n".encode() + b"\xf9\xe1,2x\n" + b'"x\n' + b'\xe9",3x\nd,4x\n')
    items = read_all("a.csv")
    assert [fields["label"] for fields in fields_in(items)] == ["1x", "4x"]
    assert found_in(items) == [("encoding-not-utf8", 3), ("encoding-not-utf8", 5)]


def test_lines_are_cut_alike_wherever_the_pieces_of_a_long_file_end(here: Path) -> None:
    rows = [f"טקסט {number} " + "x" * (number % 700) for number in range(6000)]
    (here / "a.csv").write_text("\r\n".join(["text,n", *(f'"{row}\r\n",x' for row in rows)]), "utf-8", newline="")
    (here / "a.tsv").write_text("\r\n".join(["text\tn", *(f"{row}\tx" for row in rows)]), "utf-8", newline="")
    assert [fields["text"] for fields in fields_in(read_all("a.csv", header=True))] == [row + "\r\n" for row in rows]
    items = read_all("a.tsv", header=True)
    assert [fields["text"] for fields in fields_in(items)] == rows
    assert [row.line for row in rows_in(items)] == list(range(2, 6002))


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_may_have_semicolons_or_tabs_between_its_cells_and_this_is_said(
    here: Path, separator: str, name: str
) -> None:
    rows = [["טקסט", "label"], ["שלום, עולם", "x"], ['"a', f'"one{separator}two"'], ["1,5; 2\t3", "y"]]
    with (here / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    items = read_all("a.csv", header=True)
    assert fields_in(items) == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert found_in(items) == []
    assert f"with {name} between its cells" in describe_file(Path("a.csv")).why


@pytest.mark.parametrize(
    "lines",
    [
        ["text,label;more", "a;b,c", "d;e,f"],
        ["text", "a; b", "c"],
        ["text; more", "a", "b; c; d", "e"],
        ["text", "a", "b"],
    ],
)
def test_a_csv_whose_first_line_has_commas_or_whose_lines_disagree_has_commas(here: Path, lines: list[str]) -> None:
    (here / "a.csv").write_text("\n".join(lines), "utf-8")
    assert list(fields_in(read_all("a.csv", header=True))[0]) == lines[0].split(",")
    assert "between its cells" not in describe_file(Path("a.csv")).why


def test_one_bad_record_of_many_does_not_hide_the_semicolons(here: Path) -> None:
    rows = [f"text {number};x" for number in range(9000)]
    (here / "a.csv").write_text("\n".join(["text;label", *rows[:30], "bad", *rows[30:]]), "utf-8")
    items = read_all("a.csv", header=True)
    assert found_in(items) == [("csv-cells", 32)]
    assert len(rows_in(items)) == 9000


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_of_a_record_is_the_one_that_gives_its_cells(separator: str) -> None:
    cells = ["a,b", "c;d\te", 'f"\n']
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerow(cells)
    assert separator_of(text.getvalue(), cells) == separator
