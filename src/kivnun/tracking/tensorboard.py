"""TensorBoard files in the run folder: `tensorboard --logdir runs` shows every run, each by its name.

The records are written with TensorBoard's own record writer and messages; `torch.utils.tensorboard` would load torch
and write the same. After a resumption the kept steps stand in a new file whose first message tells TensorBoard to
forget what it read before, and the old file goes: no step is doubled for any reader, and none is lost.
"""

import time
from pathlib import Path
from typing import BinaryIO, cast

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from kivnun.tracking.points import Point, Subject, Training

FOLDER = "tensorboard"
# TensorBoard reads every file with `tfevents` in its name, in the order of the names.
FILE_NAME = "events.out.tfevents.{}.kivnun"
_VERSION = "brain.Event:2"


class TensorBoardTracker:
    """Writes scalars in `tensorboard/`."""

    def __init__(self, subject: Subject) -> None:
        self._folder = subject.folder / FOLDER
        self._writer: RecordWriter | None = None

    def start(self, training: Training) -> None:
        """Begin a file with what was kept, and remove those before it."""
        self.finish()
        self._folder.mkdir(exist_ok=True)
        older = sorted(self._folder.glob(FILE_NAME.format("*")))
        number = _number(older[-1]) + 1 if older else 1
        path = self._folder / FILE_NAME.format(f"{number:06d}")
        self._writer = RecordWriter(cast("BinaryIO", path.open("xb")))
        self._write(Event(wall_time=time.time(), file_version=_VERSION))
        self._write(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
        for point in training.kept:
            self._write(_record(point))
        self._writer.flush()
        for path in older:
            path.unlink()

    def log(self, point: Point) -> None:
        """Write the numbers of a step, on their way to the disk at once."""
        if self._writer is not None:
            self._write(_record(point))
            self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _write(self, record: Event) -> None:
        assert self._writer is not None  # noqa: S101 - written to between start and finish only
        self._writer.write(record.SerializeToString())


def _record(point: Point) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
    return Event(wall_time=point.seconds, step=point.step, summary=Summary(value=values))


def _number(path: Path) -> int:
    return int(path.name.split(".")[-2])
