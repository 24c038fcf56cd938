"""CSV and TSV: a first line of column names, or none, and one row for each record."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from kivnun.data.files.dataset import ReadOptions
from kivnun.data.files.encoding import TextSource, describe_bad_bytes, with_line_feeds
from kivnun.data.findings import Finding
from kivnun.data.rows import Row

_UNCLOSED = "a quote is opened here and never closed"
_SAMPLE_ROWS = 1000
_MAX_CELL_CHARACTERS = 64 << 20
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SEPARATOR_BYTES = 64 << 10
_REGULAR = 0.9
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one record and the line on which it begins."""

    cells: Sequence[str]
    line: int


def read_csv(source: TextSource, options: ReadOptions) -> Iterator[Row | Finding]:
    """The rows of a table of cells with commas between them, or what `find_separator` finds.

    Quoted cells may hold commas, quotes and line breaks.
    """
    separator = find_separator(next(TextSource(source.path, options.encoding).chunks(), b""))
    return _name_cells(_read_csv_records(source, separator), str(source.path), options)


def read_tsv(source: TextSource, options: ReadOptions) -> Iterator[Row | Finding]:
    """The rows of tab-separated lines as they are written in the field: a quote is a character like any other."""
    return _name_cells(_read_tsv_records(source), str(source.path), options)


def find_separator(start: bytes) -> str:
    """What stands between the cells of a CSV file, by its beginning: a comma, unless its first line has none.

    In countries where numbers have a decimal comma, programs write semicolons; then nearly all records must have as
    many cells as the first.
    """
    lines = [line.decode("utf-8", "replace") for line in start[:_SEPARATOR_BYTES].splitlines(keepends=True)]
    if len(start) > _SEPARATOR_BYTES:
        lines = lines[:-1]
    for separator in SEPARATOR_NAMES:
        counts = _count_cells(lines, separator)
        if not counts or (separator == "," and counts[0] > 1):
            break
        if counts[0] > 1 and counts.count(counts[0]) >= _REGULAR * len(counts):
            return separator
    return ","


def separator_of(record: str, cells: Sequence[object]) -> str:
    """What stands between the cells of one record that was read."""
    for separator in SEPARATOR_NAMES:
        with suppress(csv.Error):
            if next(csv.reader(io.StringIO(record, newline=""), delimiter=separator), None) == cells:
                return separator
    return ","


def _count_cells(lines: Sequence[str], separator: str) -> list[int]:
    """How many cells each record has, up to the first that is broken."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    counts: list[int] = []
    with suppress(csv.Error):
        counts.extend(len(cells) for cells in csv.reader(lines, delimiter=separator) if cells)
    return counts


def looks_like_row(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first record of a table is a row: a cell is a plain number, or a value of its column.

    A line of names that was repeated further down, as in tables that were put together, proves nothing.
    """
    if any(_NUMBER.fullmatch(cell.strip()) for cell in first):
        return True
    rows = [cells for cells in others if list(cells) != list(first)]
    # In a long table a word may stand once as a name and once as a value by chance.
    needed = 1 if len(rows) < 100 else 3
    for column, name in enumerate(first):
        same = sum(len(cells) > column and cells[column] == name for cells in rows) if name else 0
        if same >= needed:
            return True
    return False


def _name_cells(records: Iterator[Record | Finding], file: str, options: ReadOptions) -> Iterator[Row | Finding]:
    """Rows from records; the first of them are looked at together, to see whether the first line is a header."""
    sample = list(islice(records, _SAMPLE_ROWS))
    head = [record for record in sample if isinstance(record, Record)]
    if not head:
        yield from (record for record in sample if isinstance(record, Finding))
        return
    first = head[0]
    names = number_columns(len(first.cells))
    header = options.header
    if header is None:
        header = not looks_like_row(first.cells, [record.cells for record in head[1:]])
        if not header:
            said = "the first line is a row, so that the columns are named column_1, column_2, ..."
            yield Finding("csv-no-header", file, first.line, said)
    if header:
        sample.remove(first)
        findings = _check_names(first, file)
        yield from findings
        if any(finding.code == "csv-header" for finding in findings):
            return
        names = [name or number for name, number in zip(first.cells, names, strict=True)]
    yield from _make_rows(chain(sample, records), names, file, "header" if header else "first line")


def _make_rows(
    records: Iterable[Record | Finding], names: Sequence[str], file: str, measure: str
) -> Iterator[Row | Finding]:
    for record in records:
        if isinstance(record, Finding):
            yield record
        elif len(record.cells) == len(names):
            yield Row(dict(zip(names, record.cells, strict=True)), file, record.line)
        else:
            said = f"{len(record.cells)} cells where the {measure} has {len(names)}"
            yield Finding("csv-cells", file, record.line, said)


def number_columns(count: int) -> list[str]:
    """Names for columns that have none."""
    return [f"column_{number}" for number in range(1, count + 1)]


def _check_names(first: Record, file: str) -> list[Finding]:
    numbers = number_columns(len(first.cells))
    names = [name or number for name, number in zip(first.cells, numbers, strict=True)]
    if len(set(names)) != len(names) or not any(first.cells):
        said = f"column names must be unique and not empty: {list(first.cells)}"
        return [Finding("csv-header", file, first.line, said)]
    said = "column {} has no name and is called {}"
    return [
        Finding("csv-unnamed-column", file, first.line, said.format(place, number))
        for place, (name, number) in enumerate(zip(first.cells, numbers, strict=True), start=1)
        if not name
    ]


def _read_csv_records(source: TextSource, separator: str) -> Iterator[Record | Finding]:
    file = str(source.path)
    # The default of 128 KiB would cut off long texts; the limit keeps an open quote from taking all memory.
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    bad: list[Finding] = []
    reader = csv.reader(_decode_lines(source, bad), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # The line where the broken record begins: an open quote runs on to the end of the file.
            yield from bad
            bad.clear()
            if not source.broken:
                yield Finding("csv-quote", file, line, _UNCLOSED if "unexpected end" in str(error) else str(error))
            continue
        if bad:
            yield from bad
            bad.clear()
        elif cells is None:
            return
        elif cells:
            yield Record(cells, line)


def _decode_lines(source: TextSource, bad: list[Finding]) -> Iterator[str]:
    """Lines for the csv reader, with their ends; lines that are not UTF-8 are told in `bad`."""
    offset = None
    for number, line in enumerate(cut_lines(source), start=1):
        offset = source.skipped if offset is None else offset
        try:
            yield line.decode()
        except UnicodeDecodeError:
            bad += describe_bad_bytes(str(source.path), number, offset, line)
            yield line.decode("utf-8", "replace")
        offset += len(line)


def cut_lines(source: TextSource) -> Iterator[bytes]:
    """Lines with their ends, which are a line feed, a carriage return, or both."""
    kept = b""
    for chunk in source.chunks():
        lines = (kept + chunk).splitlines(keepends=True)
        # The last one may go on in the next piece, be it only with the second half of its end.
        kept = lines.pop() if lines else b""
        yield from lines
    if kept and not source.broken:
        yield kept


def _read_tsv_records(source: TextSource) -> Iterator[Record | Finding]:
    offset = None
    for number, line in enumerate(cut_at_line_feeds(source), start=1):
        offset = source.skipped if offset is None else offset
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            yield from describe_bad_bytes(str(source.path), number, offset, line)
        else:
            if text:
                yield Record(text.split("\t"), number)
        offset += len(line)


def cut_at_line_feeds(source: TextSource) -> Iterator[bytes]:
    """Lines with their line feed; a carriage return within a line is a character like any other.

    Only where no line ends in a line feed, they end in carriage returns.
    """
    kept = b""
    for chunk in with_line_feeds(source.chunks()):
        *lines, kept = (kept + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if kept and not source.broken:
        yield kept
