"""Run folders: create or resume one under an exclusive lock, and find one by name."""

import fcntl
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self

from kivnun.errors import UserError
from kivnun.runs.atomic import disk_full_as_user_error
from kivnun.runs.events import EventLog
from kivnun.runs.lock import LOCK_NAME
from kivnun.runs.stage import sweep

RUNS_FOLDER = Path("runs")
EVENTS_NAME = "events.jsonl"
RECIPE_NAME = "recipe.yaml"
PROCESS_LOCK_NAME = ".lock"
_MARKS = (PROCESS_LOCK_NAME, LOCK_NAME, EVENTS_NAME)
_NO_FIELDS: Mapping[str, object] = {}


@dataclass(frozen=True)
class Run:
    """A run folder that this process alone may write to, until it is closed or the process ends in any way."""

    folder: Path
    """The run folder."""
    events: EventLog
    """The run's log."""
    lock_descriptor: int
    """The open file that carries the process lock."""

    def log(self, event: str, fields: Mapping[str, object] = _NO_FIELDS) -> None:
        """Append an event to the run's log."""
        self.events.append(event, fields)

    def close(self) -> None:
        """Give the folder free."""
        self.events.close()
        # Unlocking reaches the copies of the descriptor that forked children hold; closing alone does not.
        fcntl.flock(self.lock_descriptor, fcntl.LOCK_UN)
        os.close(self.lock_descriptor)

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the folder free."""
        self.close()


def open_run(run_dir: Path) -> Run:
    """Create or resume a run folder; what killed runs left half-written is swept.

    Raises:
        UserError: `run-locked` when another process works in it; `run-folder-taken` when the folder holds other things.
    """
    if run_dir.exists() and not _may_be_run(run_dir):
        problem = f"{run_dir} exists and is not a run folder"
        raise UserError("run-folder-taken", problem, hint="name a new or empty folder for the run")
    with disk_full_as_user_error(run_dir):
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            descriptor = _lock(run_dir)
        except (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            problem = f"{run_dir} cannot be used: {(error.strerror or str(error)).lower()}"
            raise UserError("run-folder-taken", problem, hint="name a folder that you may write to") from error
        try:
            sweep(run_dir)
            return Run(run_dir, EventLog(run_dir / EVENTS_NAME), descriptor)
        except BaseException:
            os.close(descriptor)
            raise


def default_run_dir(recipe_path: Path) -> Path:
    """The run folder of a recipe: `runs/tone` for `recipes/tone.yaml`."""
    return RUNS_FOLDER / recipe_path.stem


def find_run(text: str) -> Path:
    """The folder of an existing run, given as `runs/tone` or `tone`, or as the folder of a server's job that it is in.

    Raises:
        UserError: `run-missing`, with the runs that exist.
    """
    for folder in (Path(text), RUNS_FOLDER / text, Path(text) / "run"):
        if text and is_run(folder):
            return folder
    names = sorted(folder.name for folder in RUNS_FOLDER.glob("*") if is_run(folder))
    close = get_close_matches(Path(text).name, names, n=1)
    if close:
        hint = f"did you mean `{close[0]}`?"
    else:
        hint = f"the runs here are {', '.join(names)}" if names else "`kivnun run` with a recipe makes one"
    raise UserError("run-missing", f"there is no run `{text}`", hint=hint)


def _lock(run_dir: Path) -> int:
    """Take the process lock; the system gives it free when the process ends, even by kill -9."""
    path = run_dir / PROCESS_LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        hint = "wait until it ends, or name another run folder"
        raise UserError("run-locked", f"another process ({holder}) works in {run_dir}", hint=hint) from error
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} on {platform.node()}\n".encode(), 0)
    return descriptor


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return folder.is_dir() and any((folder / mark).exists() for mark in _MARKS)


def _may_be_run(folder: Path) -> bool:
    return is_run(folder) or (folder.is_dir() and not any(folder.iterdir()))
