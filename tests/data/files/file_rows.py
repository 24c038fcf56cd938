"""Files in, rows and findings out: what most tests of this folder look at."""

from collections.abc import Sequence
from pathlib import Path

from kivnun.data.files.find import describe_file
from kivnun.data.files.read import ReadOptions, stream_rows
from kivnun.data.findings import Finding
from kivnun.data.rows import Row


def read_all(path: Path | str, *, header: bool | None = None, encoding: str | None = None) -> list[Row | Finding]:
    return list(stream_rows(describe_file(Path(path)), ReadOptions(header, encoding)))


def rows_in(items: Sequence[object]) -> list[Row]:
    return [item for item in items if isinstance(item, Row)]


def fields_in(items: Sequence[object]) -> list[dict[str, object]]:
    return [dict(row.fields) for row in rows_in(items)]


def found_in(items: Sequence[object]) -> list[tuple[str, int]]:
    """Code and line of every finding."""
    return [(item.code, item.line) for item in items if isinstance(item, Finding)]


def said_in(items: Sequence[object]) -> list[str]:
    return [f"{item.where}: {item.message}" for item in items if isinstance(item, Finding)]
