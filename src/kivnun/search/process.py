"""A trial's process: started, followed through its `events.jsonl`, interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.runs.atomic import disk_full_as_user_error
from kivnun.runs.store import EVENTS_NAME
from kivnun.search.trials import folder_of, recipe_of

PERCENT = 100


@dataclass
class EventTail:
    """Reads what was added to an event log; a line that is not ended is left for the next time."""

    path: Path
    offset: int = 0

    def read(self) -> Iterator[Mapping[str, object]]:
        """Whole new events."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            added = file.read()
        end = added.rfind(b"\n") + 1
        self.offset += end
        yield from (json.loads(line) for line in added[:end].splitlines() if line.strip())


@dataclass
class Course:
    """How a training goes, read from its events; steps that are repeated after an interruption count once."""

    metric: str
    num_steps: int | None = None
    steps: int = 0
    loss: float | None = None
    step_seconds: float = 0.0
    has_data: bool = False
    best_value: float | None = None
    best_step: int | None = None
    num_rows: int = 0
    validated: int = 0

    def take(self, event: Mapping[str, object]) -> tuple[int, float] | None:
        """Take one event; percent of the steps and value, where it is a validation that was not there before."""
        kind = event.get("event")
        if kind == "dataset":
            self.has_data = True
            splits = cast("Mapping[str, Mapping[str, int]]", event.get("splits", {}))
            self.num_rows = splits.get("validation", {}).get("rows", 0)
        elif kind == "training_started":
            self.num_steps = int(cast("int", event["num_steps"]))
        elif kind == "step":
            self._take_step(event)
        elif kind == "validation":
            return self._take_validation(event)
        return None

    def _take_step(self, event: Mapping[str, object]) -> None:
        self.steps = max(self.steps, int(cast("int", event["step"])))
        self.num_steps = int(cast("int", event["num_steps"]))
        loss, seconds = event["loss"], float(cast("float", event["seconds"]))
        self.loss = float(loss) if isinstance(loss, int | float) else None
        # The latest steps count most: the first ones are slower.
        self.step_seconds = 0.9 * self.step_seconds + 0.1 * seconds if self.step_seconds else seconds

    def _take_validation(self, event: Mapping[str, object]) -> tuple[int, float] | None:
        step, value = int(cast("int", event["step"])), event.get(self.metric)
        if step <= self.validated or not isinstance(value, int | float):
            return None
        self.validated = step
        if event.get("best"):
            self.best_value, self.best_step = float(value), step
        return PERCENT * step // max(self.num_steps or step, 1), float(value)


@dataclass
class TrialProcess:
    """A trial that runs."""

    number: int
    process: subprocess.Popen[str]
    log: BufferedWriter
    tail: EventTail
    course: Course
    started_at: float = field(default_factory=time.monotonic)
    is_interrupted: bool = False
    told: str = ""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started_at

    def interrupt(self) -> None:
        """Ask it to save and end; a second time, end it."""
        if self.process.poll() is None:
            self.process.kill() if self.is_interrupted else self.process.send_signal(signal.SIGINT)
        self.is_interrupted = True

    def wait(self) -> None:
        """Wait until it has ended, and keep what it told."""
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.told, _ = self.process.communicate()
        self.log.close()

    def error(self) -> UserError | None:
        """The error that it told, once it has ended."""
        lines = self.told.strip().splitlines()
        try:
            told = json.loads(lines[-1])
            return UserError(told["code"], told["problem"], hint=told["hint"], details=told["details"])
        except (IndexError, ValueError, KeyError, TypeError, AssertionError):
            return None


def start_trial(search_dir: Path, number: int, *, metric: str, first: Path | None, workers: int) -> TrialProcess:
    """Start a trial; its recipe is written already.

    Args:
        search_dir: The folder of the search.
        number: The trial.
        metric: What is read from its validations.
        first: The run folder of an earlier trial, whose data set it shares.
        workers: How many run at a time and share the cores.

    Raises:
        UserError: `disk-full`.
    """
    folder = folder_of(search_dir, number)
    words = [str(recipe_of(search_dir, number)), str(folder), *([] if first is None else [str(first)])]
    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    path = folder.with_suffix(".log")
    with disk_full_as_user_error(path):
        log = path.open("ab")
    process = subprocess.Popen(  # noqa: S603 - our own module with paths that we made
        # -P: a file of the current folder must not stand in for a module. A session of its own: Ctrl-C in the terminal
        # reaches the search alone, which passes it on once.
        [sys.executable, "-P", "-m", "kivnun.search.worker", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
    )
    return TrialProcess(number, process, log, EventTail(folder / EVENTS_NAME), Course(metric))


def say_death(status: int, log: Path) -> str:
    """Why a process ended without telling an error."""
    if status < 0:
        name = signal.Signals(-status).name
        memory = ", most likely because memory ran out" if -status == signal.SIGKILL else ""
        return f"ended by {name}{memory}"
    lines = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    said = next((line for line in reversed(lines) if line.strip()), f"status {status}")
    return f"failed: {said.strip()} (see {log})"
