"""The rows that a person wants to look at: read no further than needed, and no more held than they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.read import stream_rows
from kivnun.data.findings import Finding
from kivnun.data.formats import Detection
from kivnun.data.formats.base import Format
from kivnun.data.rows import Row

FIRST_ROWS = 100
MOST_ROWS = 1000


@dataclass(frozen=True)
class ChosenRow:
    """A row as it stands in its file.

    Attributes:
        number: Which one of its split it is, from 1.
        row: The row.
        format: What it is read as.
    """

    number: int
    row: Row
    format: Format


def parse_numbers(text: str) -> list[int]:
    """Row numbers from 1, such as `17,40-45`, in order and each once.

    Raises:
        ValueError: If it is written otherwise, or names more than 1,000 rows.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and int(first) and (last.isdecimal() if dash else True)):
            raise ValueError(f"{part.strip()!r} is no row number; write numbers from 1, such as 17,40-45")
        start, stop = int(first), int(last) if dash else int(first)
        if not 0 <= stop - start < MOST_ROWS or len(numbers | {*range(start, stop + 1)}) > MOST_ROWS:
            raise ValueError(f"{part.strip()!r}: a range goes upwards, and at most {MOST_ROWS:,} rows are shown")
        numbers |= {*range(start, stop + 1)}
    return sorted(numbers)


def read_chosen(
    files: Sequence[DataFile],
    numbers: Sequence[int],
    options: ReadOptions,
    *,
    detect: Callable[[DataFile, Sequence[Row]], Detection],
    passed: Callable[[int], None] = lambda _: None,
) -> Iterator[ChosenRow | Finding]:
    """Some rows of a split, and what is wrong with what was read on the way.

    Args:
        files: The files of the split, whose rows are counted through.
        numbers: The rows, from 1, in order.
        options: How files are read.
        detect: Tells the format of a file from its first rows; called for files only that a row is taken from.
        passed: Hears of every row that was read, by its number.
    """
    wanted, number = set(numbers), 0
    for file in files:
        items = stream_rows(file, options)
        head = _read_head(items)
        first_rows = [item for item in head if isinstance(item, Row)]
        detection: Detection | None = None
        for item in chain(head, items):
            if isinstance(item, Finding):
                yield item
                continue
            number += 1
            passed(number)
            if number in wanted:
                detection = detection or detect(file, first_rows)
                yield ChosenRow(number, item, detection.format)
            if number >= numbers[-1]:
                return


def _read_head(items: Iterator[Row | Finding]) -> list[Row | Finding]:
    """The beginning of a file: enough rows to tell its format."""
    head: list[Row | Finding] = []
    num_rows = 0
    for item in items:
        head.append(item)
        num_rows += isinstance(item, Row)
        if num_rows >= FIRST_ROWS:
            break
    return head
