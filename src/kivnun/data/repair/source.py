"""The file that is repaired: its rows, each with the lines that it stands on, so that rows are kept to the byte."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from kivnun.data.conversation import Conversation
from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.encoding import TextSource
from kivnun.data.files.find import find_data
from kivnun.data.files.read import stream_rows
from kivnun.data.files.tables import cut_at_line_feeds, cut_lines
from kivnun.data.files.unpack import PACKED_SUFFIXES
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats import detect_format
from kivnun.data.rows import Row
from kivnun.errors import UserError

Show = Callable[[int, float], None]
"""Is told how many rows were read, and which share of the work is done."""

LINE_LAYOUTS: dict[str, Callable[[TextSource], Iterator[bytes]]] = {
    "jsonl": cut_at_line_feeds,
    "tsv": cut_at_line_feeds,
    "text": cut_at_line_feeds,
    "csv": cut_lines,
}
"""Layouts whose rows are lines of their own, and how these are counted."""

WHOLE_LAYOUTS = ("json", "parquet")
"""Layouts that are written anew as a whole."""

BINARY_LAYOUTS = ("parquet", "arrow")
"""Layouts that hold no text of any encoding."""

_SAMPLE_ROWS = 100
_SHOWN_EVERY_ROWS = 1000


@dataclass(frozen=True)
class Source:
    """The file that is repaired.

    Attributes:
        file: The file.
        read: What the user says about it.
        wanted: The format of its rows; found out where it is None.
        prompt: The column that is read, of a table whose columns have other names than the known ones.
        answer: The column that is learnt, of such a table.
    """

    file: DataFile
    read: ReadOptions = field(default_factory=ReadOptions)
    wanted: str | None = None
    prompt: str | None = None
    answer: str | None = None

    @property
    def name(self) -> str:
        """The file, as the user named it."""
        return str(self.file.path)


@dataclass(frozen=True, slots=True)
class Record:
    """A row with the bytes that it stands in.

    Attributes:
        row: The row; None for what stands before the first one, such as a line of column names.
        raw: Its lines as they stand, as UTF-8; None where the layout gives it none.
    """

    row: Row | None
    raw: bytes | None


def find_source(name: str, *, as_text: bool = False) -> DataFile:
    """The one file that a name stands for.

    Args:
        name: A file.
        as_text: Whether only its characters are written again, so that any layout of text will do.

    Raises:
        UserError: `data-missing`, or `data-format` where it is a folder or of a layout that cannot be written again.
    """
    files = find_data(name).files
    if not Path(name).is_file():
        raise UserError(
            "data-format",
            f"{name}: {len(files)} data file(s) in a folder or on the hub, and one file is repaired at a time",
            hint="name one file, or make one with `kivnun convert`",
        )
    if files[0].layout in BINARY_LAYOUTS if as_text else files[0].layout not in (*LINE_LAYOUTS, *WHOLE_LAYOUTS):
        raise UserError(
            "data-format",
            f"{name}: the layout {files[0].layout} cannot be repaired so",
            hint="turn it into JSONL with `kivnun convert`",
        )
    return files[0]


def scale(show: Show | None, start: float, stop: float) -> Show | None:
    """How far one of several steps is, as a part of the whole.

    Args:
        show: Is told how far the whole is.
        start: Share of the work that is done when the step begins.
        stop: Share that is done when it ends.
    """
    return None if show is None else lambda num_rows, share: show(num_rows, start + share * (stop - start))


def read_rows(source: Source, show: Show | None = None) -> Iterator[Row]:
    """The rows of a file without faults.

    Args:
        source: The file.
        show: Is told again and again how far the reading is, by the size of the first rows.

    Raises:
        UserError: `data-encoding`, `data-malformed` or `data-empty` at the first fault: a repair must not lose rows.
    """
    path = source.file.path
    # Of a packed file it is not known how long it is.
    size = 0 if path.suffix.lower() in PACKED_SUFFIXES else path.stat().st_size
    num_rows = num_sample = 0
    for item in stream_rows(source.file, source.read):
        if isinstance(item, Row):
            num_rows += 1
            yield item
            if num_rows <= _SAMPLE_ROWS:
                num_sample += len(str(item.fields).encode("utf-8", "replace"))
            elif show is not None and not num_rows % _SHOWN_EVERY_ROWS:
                show(num_rows, min(1.0, num_rows * num_sample / _SAMPLE_ROWS / size) if size else 0.0)
        elif CHECKS[item.code].severity == "error":
            raise _refuse(item)


def read_records(source: Source, show: Show | None = None) -> Iterator[Record]:
    """The rows of a file with their lines; what the records hold is all that the file holds.

    Args:
        source: The file.
        show: Is told again and again how far the reading is.

    Raises:
        UserError: As `read_rows`.
    """
    rows = read_rows(source, show)
    if source.file.layout not in LINE_LAYOUTS:
        yield from (Record(row, None) for row in rows)
        return
    lines = LINE_LAYOUTS[source.file.layout](TextSource(source.file.path, source.read.encoding))
    current, following = None, next(rows, None)
    raw: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        if following is not None and number == following.line:
            if raw:
                yield Record(current, b"".join(raw))
            current, following, raw = following, next(rows, None), []
        raw.append(line)
    if raw:
        yield Record(current, b"".join(raw))


def read_conversations(source: Source, show: Show | None = None) -> Iterator[tuple[Row, Conversation]]:
    """The rows of a file as conversations too.

    Args:
        source: The file.
        show: Is told again and again how far the reading is.

    Raises:
        UserError: As `read_rows`; `data-malformed` too for a row that does not fit the format, and `data-format` if the
            rows look like none.
    """
    rows = read_rows(source, show)
    sample = list(islice(rows, _SAMPLE_ROWS))
    detected = detect_format(sample, wanted=source.wanted, prompt=source.prompt, answer=source.answer).format
    for row in chain(sample, rows):
        try:
            yield row, detected.read(row)
        except RowError as error:
            raise _refuse(*error.findings) from error


def _refuse(*findings: Finding) -> UserError:
    details: Sequence[str] = [f"{finding.where}: {finding.message}" for finding in findings]
    code = findings[0].code
    if code.startswith("encoding-"):
        hint = "run `kivnun repair fix-encoding` first"
        return UserError("data-encoding", f"{findings[0].file} is not UTF-8", details=details, hint=hint)
    if code == "file-empty":
        return UserError("data-empty", f"{findings[0].file} has no rows", hint="check that it is the file you meant")
    return UserError(
        "data-malformed",
        f"{findings[0].file} has a fault that no repair may pass over",
        details=details,
        hint="mend it first; `kivnun check` names all of them",
    )
