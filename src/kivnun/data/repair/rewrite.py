"""A file written again with some of its rows dropped, repeated or changed; all others stay as they are, to the byte."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from kivnun.data.files.tables import separator_of
from kivnun.data.files.write import open_writer
from kivnun.data.repair.output import both_or_neither, check_target, log_path, open_log, open_whole
from kivnun.data.repair.source import LINE_LAYOUTS, Record, Show, Source, read_records
from kivnun.data.rows import Row

Fields = Mapping[str, object]


@dataclass(frozen=True)
class Change:
    """What becomes of a row.

    Attributes:
        action: What is done to it.
        reason: Why: one of a few texts, by which changes are counted.
        log: What else the log says of it.
        copies: How often it is written.
        edit: The fields that it gets in place of its own.
    """

    action: Literal["dropped", "copied", "masked", "kept"]
    reason: str
    log: Mapping[str, object] = field(default_factory=dict[str, object])
    copies: int = 0
    edit: Callable[[Fields], Fields] | None = None


@dataclass(frozen=True)
class Target:
    """Where to, and how.

    Attributes:
        out: The new file; its log stands beside it.
        force: Whether files that exist are overwritten.
        dry_run: Whether everything is done but the writing.
    """

    out: Path
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        source: The file that was read.
        out: The file that was written, or would be.
        log: Its log.
        num_rows: Rows that were read.
        num_written: Rows that were written.
        counts: How many rows were touched, by action and reason.
        notes: What is worth knowing beside.
    """

    source: str
    out: str
    log: str
    num_rows: int
    num_written: int
    counts: Mapping[str, int]
    notes: Sequence[str] = ()


Decide = Callable[[int, Row], Change | None]
"""What becomes of the n-th row, from 0; None leaves it as it is."""

_Write = Callable[[Record, Change | None], None]


def rewrite(
    source: Source, target: Target, decide: Decide, *, notes: Sequence[str] = (), show: Show | None = None
) -> Repair:
    """Write a file again, and a log of every row that is not the same or was kept with a reason.

    Args:
        source: The file.
        target: Where to.
        decide: What becomes of each row.
        notes: What is worth knowing about the decisions; more may come while they are taken.
        show: Is told again and again how far the work is.

    Raises:
        UserError: `file-exists`, `file-unwritable`, `data-format`, or what reading the file raises.
    """
    check_target(source, target.out, force=target.force)
    counts: Counter[str] = Counter()
    num_rows = num_written = 0
    with both_or_neither(target.out) as stack:
        write = stack.enter_context(_open_rows(source, target))
        log = stack.enter_context(nullcontext(_ignore) if target.dry_run else open_log(log_path(target.out)))
        for record in read_records(source, show):
            change = None if record.row is None else decide(num_rows, record.row)
            if record.row is not None:
                num_rows += 1
                num_written += 1 if change is None else change.copies
            if record.row is not None and change is not None:
                counts[f"{change.action}: {change.reason}"] += 1
                log({"where": record.row.where, "action": change.action, "reason": change.reason, **change.log})
            write(record, change)
    names = (str(target.out), str(log_path(target.out)))
    return Repair(source.name, *names, num_rows, num_written, dict(counts), notes)


def _open_rows(source: Source, target: Target) -> AbstractContextManager[_Write]:
    if target.dry_run:
        return nullcontext(_ignore)
    return _open_lines(source, target.out) if source.file.layout in LINE_LAYOUTS else _open_whole_rows(target.out)


@contextmanager
def _open_lines(source: Source, out: Path) -> Iterator[_Write]:
    """Rows as lines: those that are kept as they stand."""
    change_lines = _EDITORS[source.file.layout]
    ended = True
    with open_whole(out) as file:

        def write(record: Record, change: Change | None) -> None:
            nonlocal ended
            raw = record.raw or b""
            if change is not None and change.edit is not None and record.row is not None:
                raw = change_lines(record.row, raw, change.edit)
            for _ in range(1 if change is None else change.copies):
                # The last line of a file may lack its end.
                file.write(raw if ended else b"\n" + raw)
                ended = raw.endswith((b"\n", b"\r"))

        yield write


@contextmanager
def _open_whole_rows(out: Path) -> Iterator[_Write]:
    with open_writer(out) as writer:

        def write(record: Record, change: Change | None) -> None:
            if record.row is None:
                return
            fields = record.row.fields if change is None or change.edit is None else change.edit(record.row.fields)
            for _ in range(1 if change is None else change.copies):
                writer.write(fields)

        yield write


def _ignore(*_: object) -> None:
    """In place of writing."""


def _edit_jsonl(row: Row, raw: bytes, edit: Callable[[Fields], Fields]) -> bytes:
    # The standard library keeps integers of any size; orjson, which the rows were read with, does not.
    line, blank = _split_line(raw)
    fields = edit(cast("dict[str, object]", json.loads(line)))
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + blank


def _edit_tsv(row: Row, raw: bytes, edit: Callable[[Fields], Fields]) -> bytes:
    _, blank = _split_line(raw)
    return "\t".join(map(str, edit(row.fields).values())).encode() + blank


def _edit_csv(row: Row, raw: bytes, edit: Callable[[Fields], Fields]) -> bytes:
    _, blank = _split_line(raw)
    cells = io.StringIO()
    # Cells that hold a character of the writer's own line end are quoted, so that it must have both.
    separator = separator_of(raw.decode(), list(row.fields.values()))
    csv.writer(cells, delimiter=separator, lineterminator="\r\n").writerow(edit(row.fields).values())
    return cells.getvalue().removesuffix("\r\n").encode() + blank


def _edit_text(row: Row, raw: bytes, edit: Callable[[Fields], Fields]) -> bytes:
    text = raw.decode()
    old, new = str(row.fields["text"]), str(edit(row.fields)["text"])
    if old not in text:
        text = text.replace("\r\n", "\n")
    return text.replace(old, new, 1).encode()


def _split_line(raw: bytes) -> tuple[bytes, bytes]:
    """A record without the line ends behind it, and these."""
    line = raw.rstrip(b"\r\n")
    return line, raw[len(line) :]


_EDITORS: dict[str, Callable[[Row, bytes, Callable[[Fields], Fields]], bytes]] = {
    "jsonl": _edit_jsonl,
    "tsv": _edit_tsv,
    "csv": _edit_csv,
    "text": _edit_text,
}
