import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mending import mend

from kivnun.data.files.dataset import ReadOptions
from kivnun.data.repair.personal import mask_personal_data
from kivnun.data.repair.rewrite import Change, Repair, Target, rewrite
from kivnun.data.repair.source import Source, find_source, read_records
from kivnun.data.rows import Row
from kivnun.errors import UserError

Decide = Callable[[int, Row], Change | None]
ROWS = '{"b": 1.50, "a":"x"}\n\n{"a":"\\u05d0", "b":2}\r\n{"a":"z"}'


def open_source(path: Path) -> Source:
    return Source(find_source(str(path)))


def write_again(tmp_path: Path, content: bytes | str, decide: Decide, name: str = "in.jsonl", **more: bool) -> Repair:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return rewrite(open_source(path), Target(tmp_path / f"out-{name}", **more), decide)


def keep(_: int, __: Row) -> None:
    return None


def drop_second(index: int, _: Row) -> Change | None:
    return Change("dropped", "second") if index == 1 else None


def shout(_: int, row: Row) -> Change | None:
    edit = {key: str(value).upper() for key, value in row.fields.items()}
    return Change("masked", "loud", copies=1, edit=lambda fields: {**fields, **edit})


FILES = {
    "in.jsonl": ROWS,
    "in.csv": 'text,label\r\n"two\r\nlines, ""quoted""",a\r\nplain,"b"\r\nlast,c',
    "bare.csv": "good,1\nbad,2\nworse,3\n",
    "in.tsv": 'a "quote\t1\nשלום\t2\n\nend\t3\n',
    "in.txt": "one\n\n<|endoftext|>\ntwo\r\nlines\n<|endoftext|>\nthree",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_whose_rows_are_all_kept_is_the_same_to_the_byte(tmp_path: Path, name: str) -> None:
    done = write_again(tmp_path, FILES[name], keep, name)
    assert (tmp_path / f"out-{name}").read_bytes() == FILES[name].encode()
    assert (done.num_rows, done.num_written, dict(done.counts)) == (3, 3, {})
    assert (tmp_path / f"out-{name}.log.jsonl").read_bytes() == b""


DROPPED = {
    "in.jsonl": '{"b": 1.50, "a":"x"}\n\n{"a":"z"}',
    "in.csv": 'text,label\r\n"two\r\nlines, ""quoted""",a\r\nlast,c',
    "bare.csv": "good,1\nworse,3\n",
    "in.tsv": 'a "quote\t1\nend\t3\n',
    "in.txt": "one\n\n<|endoftext|>\nthree",
}


@pytest.mark.parametrize("name", FILES)
def test_only_the_lines_of_a_dropped_row_go(tmp_path: Path, name: str) -> None:
    done = write_again(tmp_path, FILES[name], drop_second, name)
    assert (tmp_path / f"out-{name}").read_bytes() == DROPPED[name].encode()
    assert (done.num_written, dict(done.counts)) == (2, {"dropped: second": 1})


def test_the_log_names_every_row_that_was_touched(tmp_path: Path) -> None:
    done = write_again(tmp_path, FILES["in.csv"], drop_second, "in.csv")
    assert json.loads(Path(done.log).read_bytes()) == {
        "where": f"{tmp_path / 'in.csv'}:4",
        "action": "dropped",
        "reason": "second",
    }


CHANGED = {
    "in.jsonl": '{"b": "1.5", "a": "X"}\n\n{"a": "א", "b": "2"}\r\n{"a": "Z"}',
    "in.csv": 'text,label\r\n"TWO\r\nLINES, ""QUOTED""",A\r\nPLAIN,B\r\nLAST,C',
    "bare.csv": "GOOD,1\nBAD,2\nWORSE,3\n",
    "in.tsv": 'A "QUOTE\t1\nשלום\t2\n\nEND\t3\n',
    "in.txt": "ONE\n\n<|endoftext|>\nTWO\nLINES\n<|endoftext|>\nTHREE",
}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_row_stands_in_its_place_in_the_same_layout(tmp_path: Path, name: str) -> None:
    write_again(tmp_path, FILES[name], shout, name)
    assert (tmp_path / f"out-{name}").read_bytes() == CHANGED[name].encode()


def test_a_changed_row_keeps_integers_of_64_bits(tmp_path: Path) -> None:
    edit = Change("masked", "x", copies=1, edit=lambda fields: {**fields, "a": "y"})
    write_again(tmp_path, '{"a": "x", "n": 18446744073709551615}\n', lambda *_: edit)
    assert (tmp_path / "out-in.jsonl").read_text() == '{"a": "y", "n": 18446744073709551615}\n'


def test_a_copied_last_line_without_an_end_gets_one(tmp_path: Path) -> None:
    write_again(tmp_path, '{"a":1}\n{"a":2}', lambda *_: Change("copied", "x", copies=2))
    assert (tmp_path / "out-in.jsonl").read_text() == '{"a":1}\n{"a":1}\n{"a":2}\n{"a":2}'


@settings(max_examples=25)
@given(st.lists(st.sampled_from(['{"a":1}', "", '{"b":"ש"}', "  "]), max_size=12), st.sampled_from(["", "\n", "\r\n"]))
def test_the_records_of_a_file_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    path = tmp_path_factory.mktemp("records") / "in.jsonl"
    content = ("\n".join(['{"first":1}', *lines]) + end).encode()
    path.write_bytes(content)
    records = list(read_records(open_source(path)))
    assert b"".join(record.raw or b"" for record in records) == content
    assert sum(record.row is not None for record in records) == 1 + sum("{" in line for line in lines)


UNPACK = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize("ending", UNPACK)
def test_packed_files_are_read_and_written(tmp_path: Path, ending: str) -> None:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    write_again(tmp_path, pack(b'{"a":1}\n{"a":2}\n'), drop_second, f"in.jsonl{ending}")
    assert UNPACK[ending]((tmp_path / f"out-in.jsonl{ending}").read_bytes()) == b'{"a":1}\n'


def test_a_json_array_is_written_as_an_array(tmp_path: Path) -> None:
    write_again(tmp_path, '[{"a": "א"},\n {"a": "b"}, {"a": [1]}]', drop_second, "in.json")
    assert json.loads((tmp_path / "out-in.json").read_text()) == [{"a": "א"}, {"a": [1]}]


def test_parquet_is_written_as_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["א", "ב", "ג"], "n": [1, 2, 3]}), tmp_path / "rows.parquet")
    done = rewrite(open_source(tmp_path / "rows.parquet"), Target(tmp_path / "out.parquet"), drop_second)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [{"a": "א", "n": 1}, {"a": "ג", "n": 3}]
    assert done.num_written == 2


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    done = write_again(tmp_path, ROWS, drop_second, dry_run=True)
    assert (done.num_written, dict(done.counts)) == (2, {"dropped: second": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def refuse(tmp_path: Path, out: str, *, name: str = "in.jsonl", content: str = ROWS, **more: bool) -> str:
    path = tmp_path / name
    if not path.exists():
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        rewrite(open_source(path), Target(tmp_path / out, **more), keep)
    return caught.value.code


def test_the_file_itself_is_never_overwritten(tmp_path: Path) -> None:
    assert refuse(tmp_path, "in.jsonl", force=True) == "file-exists"
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    assert refuse(tmp_path, "link.jsonl", force=True) == "file-exists"
    assert (tmp_path / "in.jsonl").read_text() == ROWS.replace("\r\n", "\n")


def test_other_files_are_overwritten_only_if_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    assert refuse(tmp_path, "out.jsonl") == "file-exists"
    (tmp_path / "new.jsonl.log.jsonl").write_text("old")
    assert refuse(tmp_path, "new.jsonl") == "file-exists"
    rewrite(open_source(tmp_path / "in.jsonl"), Target(tmp_path / "out.jsonl", force=True), keep)
    assert (tmp_path / "out.jsonl").read_text() != "old"


def test_targets_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert refuse(tmp_path, "folder") == "file-unwritable"
    assert refuse(tmp_path, "nowhere/out.jsonl") == "file-unwritable"
    assert refuse(tmp_path, "out.csv") == "data-format"
    assert refuse(tmp_path, "out") == "data-format"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", '{"a":1}\n{"a":\n', "data-malformed"),
        ("b.csv", "a,b\n1\n", "data-malformed"),
        ("c.jsonl", "", "data-empty"),
    ],
)
def test_a_file_with_faults_is_not_written_again(tmp_path: Path, name: str, content: str, code: str) -> None:
    assert refuse(tmp_path, f"out-{name}", name=name, content=content) == code
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_repair_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stop(index: int, _: Row) -> None:
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_again(tmp_path, ROWS, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_file_that_is_not_utf8_is_sent_to_fix_encoding(tmp_path: Path) -> None:
    (tmp_path / "he.csv").write_bytes("text,label\nשלום,א\n".encode("cp1255"))
    with pytest.raises(UserError, match="not UTF-8") as caught:
        rewrite(open_source(tmp_path / "he.csv"), Target(tmp_path / "out.csv"), keep)
    assert caught.value.code == "data-encoding"
    assert "fix-encoding" in caught.value.hint


def test_folders_and_layouts_that_are_only_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROWS)
    (tmp_path / "squad.json").write_text('{"version": "1", "data": [{"title": "t", "paragraphs": []}]}')
    for name in (tmp_path, tmp_path / "squad.json"):
        with pytest.raises(UserError, match=r".") as caught:
            find_source(str(name))
        assert caught.value.code == "data-format"


def test_how_far_the_work_is_is_told(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "some words of a row"}\n' * 5000)
    told: list[tuple[int, float]] = []
    rewrite(open_source(path), Target(tmp_path / "out.jsonl"), keep, show=lambda *step: told.append(step))
    assert [num_rows for num_rows, _ in told] == [1000, 2000, 3000, 4000, 5000]
    assert [round(share, 1) for _, share in told] == [0.2, 0.4, 0.6, 0.8, 1.0]


CELLS = st.text(st.sampled_from('ab,"\n\r ש\t'), min_size=1, max_size=6).filter(str.strip)


TABLES = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6)


def write_table(path: Path, rows: list[tuple[str, str]], end: str) -> Source:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("name", "kind"), *rows])
    path.write_bytes(text.getvalue().encode())
    return Source(find_source(str(path)), ReadOptions(header=True))


def read_table(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(cells) for cells in csv.reader(file)][1:]


@settings(max_examples=40)
@given(TABLES, st.sampled_from(["\n", "\r\n"]), st.data())
def test_a_row_dropped_from_a_table_takes_no_other_cell_with_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("table")
    place = data.draw(st.integers(0, len(rows) - 1))
    source = write_table(folder / "in.csv", rows, end)
    rewrite(source, Target(folder / "out.csv"), lambda index, _: Change("dropped", "x") if index == place else None)
    assert read_table(folder / "out.csv") == [*rows[:place], *rows[place + 1 :]]


@settings(max_examples=40)
@given(TABLES, CELLS, st.data())
def test_a_changed_cell_of_a_table_may_hold_anything(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], cell: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("table")
    place = data.draw(st.integers(0, len(rows) - 1))
    change = Change("masked", "x", copies=1, edit=lambda fields: {**fields, "kind": cell})
    source = write_table(folder / "in.csv", rows, "\n")
    rewrite(source, Target(folder / "out.csv"), lambda index, _: change if index == place else None)
    assert read_table(folder / "out.csv") == [*rows[:place], (rows[place][0], cell), *rows[place + 1 :]]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_keeps_what_stands_between_its_cells(tmp_path: Path, separator: str) -> None:
    lines = ("text;label\r\n", "כתבו אל, {};x\r\n", "b;y\r\n")
    content = "".join(lines).replace(";", separator)
    table = mend(tmp_path, mask_personal_data, content.format("a@b.org"), name="in.csv")
    assert table.content.decode() == content.format("[EMAIL]")
