"""`events.jsonl`: one line per thing that happened; everything that shows progress reads it."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from kivnun.errors import UserError
from kivnun.runs.atomic import disk_full_as_user_error
from kivnun.runs.manifest import now

Event = dict[str, object]
"""One event: `time`, `event` (its kind) and the fields of that kind."""

_NO_FIELDS: Mapping[str, object] = {}


class EventLog:
    """Appends events to a file; a line is on its way to the disk when `append` returns, so a kill loses none."""

    def __init__(self, path: Path, *, clock: Callable[[], str] = now) -> None:
        self.path = path
        self._clock = clock
        with disk_full_as_user_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            _repair(path)

    def append(self, event: str, fields: Mapping[str, object] = _NO_FIELDS) -> None:
        """Add one line.

        Raises:
            UserError: `disk-full`; the log keeps only whole lines.
        """
        line = json.dumps({"time": self._clock(), "event": event, **_plain(fields)}, ensure_ascii=False) + "\n"
        data, size = line.encode(), self.path.stat().st_size
        with disk_full_as_user_error(self.path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                os.truncate(self.path, size)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read_events(path: Path) -> list[Event]:
    """Every event; the torn last line of a killed run is passed over, and no file means no events.

    Raises:
        UserError: `artifact-damaged` when a line before the last cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        event = _parse(line)
        if event is not None:
            events.append(event)
        elif number < len(lines):
            hint = "remove that line by hand; the other events are whole"
            raise UserError("artifact-damaged", f"{path}:{number} is not an event", hint=hint)
    return events


def _repair(path: Path) -> None:
    """End a last line that is whole, and cut off one that is torn."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return
    if _parse(content[end:]) is None:
        os.truncate(path, end)
    else:
        with path.open("ab") as file:
            file.write(b"\n")


def _parse(line: bytes) -> Event | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast("Event", value) if isinstance(value, dict) else None


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    return {str(name): _plain_value(item) for name, item in value.items()}


def _plain_value(value: object) -> object:
    """JSON has no NaN: a number that is not finite is kept as text, where it is seen."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return _plain(cast("Mapping[str, object]", value))
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in cast("Sequence[object]", value)]
    return str(value) if isinstance(value, Path) else value
