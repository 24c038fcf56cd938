"""What a fuzzer runs over data: any bytes as any file, any value as any row; nothing but the promised errors is raised.

The tests here run it shortly, `bench/fuzz_data.py` for minutes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from kivnun.data.checks.page import render_page
from kivnun.data.checks.row import check_row
from kivnun.data.checks.sarif import make_sarif
from kivnun.data.checks.stream import CheckOptions, check_data
from kivnun.data.conversation import Conversation
from kivnun.data.convert import ConvertOptions, convert_data
from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.find import find_data
from kivnun.data.files.read import LAYOUTS, stream_rows
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats import FORMATS, detect_format
from kivnun.data.rows import Row
from kivnun.errors import UserError

NAMES = (
    *("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.arrow", "book.txt", "train_text.txt"),
    *("rows.jsonl.gz", "rows.jsonl.bz2", "rows.jsonl.xz", "rows.jsonl.zst", "dataset_info.json", "mapping.txt"),
)
ENCODINGS = (None, None, None, "utf-8", "cp1255", "latin-1", "utf-16", "utf-7", "cesu-8", "shift-jis")
ACTIONS = ("read", "read", "read", "check", "convert", "folder")


@dataclass(frozen=True)
class Task:
    """What is done with some bytes.

    Attributes:
        name: The file that they stand in.
        layout: How its rows are read; the one of its name where it is none of the layouts.
        encoding: The encoding that the user names.
        header: What the user says of the first line of a table.
        action: One of `ACTIONS`.
    """

    name: str
    layout: str = ""
    encoding: str | None = None
    header: bool | None = None
    action: str = "read"


def take_task(data: bytes) -> tuple[Task, bytes]:
    """What the first four bytes say, and the content of the file."""
    first, second, third, fourth = data[:4].ljust(4, b"\0")
    return Task(
        NAMES[first % len(NAMES)],
        ("", *LAYOUTS)[second % (len(LAYOUTS) + 1)],
        ENCODINGS[third % len(ENCODINGS)],
        (None, True, False)[third // len(ENCODINGS) % 3],
        ACTIONS[fourth % len(ACTIONS)],
    ), data[4:]


def make_seed(name: str, content: bytes, action: str) -> bytes:
    """Bytes from which `take_task` takes this file again, read as its name says."""
    return bytes([NAMES.index(name) if name in NAMES else 0, 0, 0, ACTIONS.index(action)]) + content


def run_bytes(data: bytes, folder: Path) -> None:
    """Do with some bytes what they themselves say, in a folder of their own."""
    task, content = take_task(data)
    path = folder / task.name
    path.write_bytes(content)
    try:
        _RUNNERS[task.action](path, task)
    finally:
        path.unlink()


def read_file(path: Path, task: Task) -> None:
    """A file as rows: nothing is raised, lines count on, texts can be written again."""
    columns = {"text": path, "label": path} if task.layout == "lines" else {}
    with suppress(UserError):
        file = DataFile(path, task.layout or find_data(str(path)).files[0].layout, "train", "", columns)
        items = list(stream_rows(file, ReadOptions(task.header, task.encoding)))
        check_items(items)
        rows = [item for item in items if isinstance(item, Row)]
        read_rows(rows[:1] + rows[-1:] if len(rows) > 1 else rows)


def check_items(items: Sequence[Row | Finding]) -> None:
    """What is promised of everything that a reader gives: rows in order, findings with codes that are known."""
    assert items, "a file without rows is `file-empty`"
    line = 1
    for item in items:
        if isinstance(item, Row):
            assert item.line >= line, f"row {item.where} comes behind line {line}"
            line = item.line
            orjson.dumps(item.fields, default=str)
        else:
            assert item.code in CHECKS
            assert item.line >= 0
            assert item.message, f"{item.code} says nothing"
            assert item.message.isprintable(), f"{item.code} says {item.message!r}"


def check_file(path: Path, task: Task) -> None:
    """A file through `kivnun check`: a report that can be written in every form, or a UserError."""
    with suppress(UserError):
        options = CheckOptions(read=ReadOptions(task.header, task.encoding), service="openai", num_workers=1)
        report = check_data(find_data(str(path)), options)
        orjson.dumps(report.to_json(), option=orjson.OPT_NON_STR_KEYS)
        orjson.dumps(make_sarif(report, root=path.parent))
        render_page(report).encode()


def check_folder(path: Path, task: Task) -> None:
    """A folder with this file and a good one."""
    with suppress(UserError):
        check_data(find_data(str(path.parent)), CheckOptions(read=ReadOptions(task.header), num_workers=1))


def convert_file(path: Path, task: Task) -> None:
    """A file as JSONL of another format, of which nothing is left behind."""
    out = path.with_name("out.jsonl")
    with suppress(UserError):
        options = ConvertOptions(FORMATS["openai-chat"], read=ReadOptions(task.header, task.encoding), dry_run=True)
        convert_data(find_data(str(path)), out, options)
    left = {each.name for each in path.parent.iterdir()} - {path.name}
    assert left == set(), left


_RUNNERS: dict[str, Callable[[Path, Task], None]] = {
    "read": read_file,
    "check": check_file,
    "convert": convert_file,
    "folder": check_folder,
}


def read_rows(rows: Sequence[Row]) -> None:
    """Rows through the detection of formats, and each through every format."""
    with suppress(UserError):
        detect_format(rows)
    for row in rows:
        for name in FORMATS:
            read_as(name, row)


def read_value(value: object) -> None:
    """Any value in the place of a row's fields, as far as a reader can give it."""
    with suppress(orjson.JSONDecodeError):
        fields = orjson.loads(json.dumps(value))
        if isinstance(fields, dict):
            read_rows([Row(fields, "rows.jsonl", 1)])


def read_as(name: str, row: Row) -> None:
    """A row as a conversation that is checked, written in every format, and read again as what it was."""
    format_ = FORMATS[name]
    reason = format_.recognise(row.fields)
    assert reason is None or isinstance(reason, str)
    conversation = _take_errors(lambda: format_.read(row))
    if not isinstance(conversation, Conversation):
        return
    assert len(conversation.content_hash) == 64
    for finding in check_row(conversation, row, name):
        assert finding.code in CHECKS
        assert finding.message.isprintable(), finding.message
    for other in FORMATS.values():
        write = other.write
        if write is not None:
            fields = _take_errors(lambda write=write: write(conversation))
            if isinstance(fields, Mapping):
                orjson.dumps(fields, default=str)
                assert isinstance(
                    _take_errors(lambda other=other, fields=fields: other.read(Row(fields, "", 1))), Conversation
                ), f"{name} written as {other.name} cannot be read again: {fields}"


def _take_errors(act: Callable[[], object]) -> object:
    """What a reader or a writer gives, or what it raises as it may."""
    try:
        return act()
    except RowError as error:
        raised = error
    assert raised.findings
    assert all(finding.code in CHECKS and finding.message.isprintable() for finding in raised.findings)
    return raised
