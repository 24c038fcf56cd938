"""Files become rows: JSONL, a JSON array, CSV, TSV, plain text documents, or one text file per column.

The format is chosen by the file's name and nothing else; every row remembers its file and line, for error messages.
"""

import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson

from kivnun.errors import UserError

DOCUMENT_SEPARATOR = "<|endoftext|>"
MAX_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Row:
    """One row of a data file: its fields as they stand there, and where."""

    fields: Mapping[str, object]
    where: str


def read_rows(files: str | Sequence[str] | Mapping[str, str]) -> list[Row]:
    """Read one file, several files one after another, or one text file per column line by line.

    Raises:
        UserError: `data-missing`, `data-empty`, `data-format`, `data-encoding` or `data-malformed`.
    """
    if isinstance(files, Mapping):
        return _read_columns(files)
    names = [files] if isinstance(files, str) else files
    return [row for name in names for row in _read_file(Path(name))]


def _read_file(path: Path) -> list[Row]:
    kind = path.name.removesuffix(".xz").removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in READERS:
        raise UserError(
            "data-format",
            f"{path}: cannot tell the format from the name",
            hint=f"use a file that ends in one of {', '.join('.' + name for name in READERS)} (.gz and .xz too)",
        )
    rows = list(READERS[kind](path, read_text(path)))
    if not rows:
        raise UserError("data-empty", f"{path}: no rows", hint="check that the file is the one you meant")
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, unpacked if its name ends in .gz or .xz; a byte-order mark is dropped.

    Raises:
        UserError: `data-missing` or `data-encoding`, with the line of the first wrong byte.
    """
    if not path.is_file():
        raise UserError(
            "data-missing",
            f"{path}: no such file",
            hint="paths start from the current folder, or else from the recipe's folder",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            "data-missing", f"{path}: cannot be read: {error.strerror}", hint="name a file that you may read"
        ) from error
    try:
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        elif path.suffix == ".gz":
            data = gzip.decompress(data)
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise UserError(
            "data-malformed", f"{path}: cannot be unpacked: {error}", hint="copy or download the file again"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error counts from behind the byte-order mark, and so does the object that it carries.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            "data-encoding",
            f"{path}:{line}: byte 0x{error.object[error.start]:02x} is not UTF-8",
            hint=f"convert it, for Hebrew Windows files: iconv -f cp1255 -t utf-8 {path.name} > fixed",
        ) from error


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{where}: {error.msg} (column {error.pos + 1}): {shorten(line)}")
            continue
        if isinstance(fields, dict):
            yield Row(fields, where)
        else:
            problems.append(f"{where}: expected an object {{...}}, got {shorten(line)}")
    _refuse_malformed(path, problems, "each line must be one JSON object")


def _read_json(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        line = text.count("\n", 0, error.pos) + 1
        raise UserError(
            "data-malformed",
            f"{path}:{line}: {error.msg}",
            hint="a .json file holds one array of objects; name it .jsonl if it holds one object per line",
        ) from error
    if not isinstance(rows, list):
        raise UserError(
            "data-malformed",
            f"{path}: expected an array of objects, got {type(rows).__name__}",
            hint="wrap the object in [ ]",
        )
    problems = [f"{path}[{index}]: expected an object" for index, row in enumerate(rows) if not isinstance(row, dict)]
    _refuse_malformed(path, problems, "each item of the array must be an object")
    yield from (Row(row, f"{path}[{index}]") for index, row in enumerate(rows))


def _read_csv(path: Path, text: str, delimiter: str = ",") -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    problems: list[str] = []
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            return
        _check_header(path, header)
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield Row(dict(zip(header, cells, strict=True)), f"{path}:{line}")
            elif cells:
                problems.append(f"{path}:{line}: {len(cells)} cells where the header has {len(header)}")
            line = reader.line_num + 1
    except csv.Error as error:
        # The line where the broken record begins: an open quote runs on to the end of the file.
        problems.append(f"{path}:{line}: {error}")
    _refuse_malformed(path, problems, "quote cells that hold the separator, a quote or a line break")


def _read_tsv(path: Path, text: str) -> Iterator[Row]:
    """Tab-separated lines as they are written in the field: no quoting, a quote is a character like any other."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not any(lines):
        return
    header = lines[0].split("\t")
    _check_header(path, header)
    problems: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        cells = line.split("\t")
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), f"{path}:{number}")
        else:
            problems.append(f"{path}:{number}: {len(cells)} cells where the header has {len(header)}")
    _refuse_malformed(path, problems, "separate cells with one tab each")


def _check_header(path: Path, header: list[str]) -> None:
    if len(set(header)) != len(header) or not all(header):
        raise UserError(
            "data-malformed",
            f"{path}:1: column names must be unique and not empty: {header}",
            hint="name every column in the first line",
        )


def _read_documents(path: Path, text: str) -> Iterator[Row]:
    """Documents between lines that hold only `<|endoftext|>`; without such a line the file is one document."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    cuts = [-1, *(number for number, line in enumerate(lines) if line.strip() == DOCUMENT_SEPARATOR), len(lines)]
    source = path.name.partition(".")[0]
    for first, last in pairwise(cuts):
        document = "\n".join(lines[first + 1 : last]).strip("\n")
        if document.strip():
            yield Row({"text": document, "source": source}, f"{path}:{first + 2}")


def _read_columns(files: Mapping[str, str]) -> list[Row]:
    columns: dict[str, list[str]] = {}
    for name, file in files.items():
        lines = read_text(Path(file)).split("\n")
        columns[name] = [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    counts = {name: len(lines) for name, lines in columns.items()}
    if len(set(counts.values())) != 1:
        raise UserError(
            "data-malformed",
            "column files differ in length",
            details=[f"{files[name]}: {count} lines ({name})" for name, count in counts.items()],
            hint="line n of every column file must belong to row n",
        )
    first = next(iter(files.values()))
    if not next(iter(counts.values())):
        raise UserError("data-empty", f"{first}: no rows", hint="check that the file is the one you meant")
    return [
        Row(dict(zip(columns, cells, strict=True)), f"{first}:{number}")
        for number, cells in enumerate(zip(*columns.values(), strict=True), start=1)
    ]


def _refuse_malformed(path: Path, problems: list[str], hint: str) -> None:
    if problems:
        raise UserError(
            "data-malformed", f"{len(problems)} malformed row(s) in {path}", details=first_problems(problems), hint=hint
        )


def first_problems(problems: list[str]) -> list[str]:
    """The first problems of a long list, and how many more there are."""
    more = len(problems) - MAX_SHOWN_PROBLEMS
    return problems[:MAX_SHOWN_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])


def shorten(text: str, limit: int = 60) -> str:
    """The beginning of a long text, for a message of one line."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "txt": _read_documents,
}
