"""How far a pass over rows is, on standard error, once it takes longer than two seconds."""

import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from kivnun.cli.progress import PLAIN_LINE_SECONDS, say_seconds

QUIET_SECONDS = 2.0


class RowProgress:
    """A bar on a terminal, plain lines elsewhere, nothing for what is done at once.

    Args:
        stream: Where to.
        word: What is done to the rows, such as "checking".
        unit: What they are called.
    """

    def __init__(self, stream: TextIO, word: str, unit: str = "rows") -> None:
        self._word = word
        self._unit = unit
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._started = self._said_at = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """The display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, num_rows: int, share: float) -> None:
        """Say how many rows were read, and which share of all bytes."""
        now = time.monotonic()
        seconds = now - self._started
        if seconds < QUIET_SECONDS:
            return
        words = f"{num_rows:,} {self._unit}  {num_rows / seconds:,.0f} {self._unit}/s"
        if self._console.is_terminal:
            self._show_bar(share, words)
        elif now - self._said_at >= PLAIN_LINE_SECONDS:
            left = f"  {say_seconds(seconds * (1 - share) / share)} left" if 0 < share < 1 else ""
            self._console.print(f"{self._word}  {share:.0%}  {words}{left}", markup=False)
            self._said_at = now

    def _show_bar(self, share: float, words: str) -> None:
        if self._bar is None or self._task is None:
            times = (TextColumn("{task.fields[words]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            columns = (TextColumn(f"  {self._word}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
            self._bar = Bar(*columns, *times, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._word, total=1.0, words="")
        self._bar.update(self._task, completed=min(share, 1.0), words=words)
