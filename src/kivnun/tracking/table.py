"""`training.csv`: a row per step, for spreadsheets and pandas; what is not measured at a step is empty.

The first columns are always the same. A name that comes up later, such as a metric of the validation rows, gets a
column at the end, and the file is written anew, whole or not at all. A row is on its way to the disk before the next
step begins.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from kivnun.runs import write_atomic
from kivnun.tracking.points import Point, Subject, Training

FILE_NAME = "training.csv"
COLUMNS = (
    "step",
    "train/epoch",
    "train/loss",
    "train/grad_norm",
    "train/learning_rate",
    "train/num_tokens",
    "train/num_targets",
    "train/seconds",
    "train/tokens_per_second",
    "validation/loss",
)
"""The columns that every file begins with."""

_WHOLE = {"train/num_tokens", "train/num_targets"}


class CsvTracker:
    """Writes `training.csv` in the run folder."""

    def __init__(self, subject: Subject) -> None:
        self._path = subject.folder / FILE_NAME
        self._columns: list[str] = list(COLUMNS)
        self._file: BinaryIO | None = None
        self._row: tuple[int, dict[str, float]] = (-1, {})
        self._row_starts = 0

    def start(self, training: Training) -> None:
        """Write what was kept; rows of later steps, or of another training, go."""
        rows: dict[int, dict[str, float]] = {}
        for point in training.kept:
            rows.setdefault(point.step, {}).update(point.values)
        self._columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows.values() for name in row)]))
        lines = [_line(self._columns, row) for row in sorted(rows.items())]
        self._row = max(rows.items(), default=(-1, {}))
        self._replace([_text(self._columns), *lines])

    def log(self, point: Point) -> None:
        """Add a row, or fill in more of the last one."""
        new = [name for name in point.values if name not in self._columns]
        if new:
            self._add_columns(new)
        assert self._file is not None  # noqa: S101 - logged to between start and finish only
        step, values = self._row
        if point.step != step:
            values, self._row_starts = {}, self._file.seek(0, os.SEEK_END)
        self._row = (point.step, {**values, **point.values})
        self._file.seek(self._row_starts)
        self._file.write(_line(self._columns, self._row).encode())
        self._file.truncate()

    def finish(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _add_columns(self, names: Sequence[str]) -> None:
        _, *rows = self._path.read_text("utf-8").splitlines()
        self._columns += names
        self._replace([_text(self._columns), *(f"{row}{',' * len(names)}\n" for row in rows)])

    def _replace(self, lines: Sequence[str]) -> None:
        self.finish()
        write_atomic(self._path, "".join(lines))
        self._row_starts = len("".join(lines[:-1]).encode())
        # Unbuffered: a reader, and a kill, find every row that was written.
        self._file = self._path.open("r+b", buffering=0)


def _line(columns: Sequence[str], row: tuple[int, Mapping[str, float]]) -> str:
    step, values = row
    return _text([str(step), *(_cell(values, name) for name in columns[1:])])


def _cell(values: Mapping[str, float], name: str) -> str:
    if name not in values:
        return ""
    return str(int(values[name])) if name in _WHOLE else repr(values[name])


def _text(cells: Sequence[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()
