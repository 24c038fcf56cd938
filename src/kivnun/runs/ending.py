"""How a run ended, kept in its own log, and whether a process still works in its folder."""

import fcntl
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kivnun.errors import UserError
from kivnun.runs.store import PROCESS_LOCK_NAME

Log = Callable[[str, Mapping[str, object]], None]

FINISHED, FAILED, INTERRUPTED = "run_finished", "run_failed", "run_interrupted"
UNEXPECTED = "unexpected"
"""The code of a failure that is our bug."""

_LOCKS = Path("/proc/locks")


@contextmanager
def endings_logged(log: Log) -> Generator[None]:
    """Log why a run ends early: `run_failed` with code and problem, or `run_interrupted`.

    A run that is killed logs nothing: its folder is then free, and its log has no end.

    Raises:
        BaseException: Whatever ended the run.
    """
    try:
        yield
    except BaseException as error:
        # A disk that is full, or a log that is gone, must not hide what happened.
        with suppress(UserError, OSError):
            if isinstance(error, UserError):
                log(FAILED, {"code": error.code, "problem": error.problem})
            elif isinstance(error, KeyboardInterrupt):
                log(INTERRUPTED, {})
            else:
                log(FAILED, {"code": UNEXPECTED, "problem": f"{type(error).__name__}: {error}"})
        raise


def is_held(run_dir: Path) -> bool:
    """Whether a process works in a run folder now.

    The system's list of locks is asked first, for taking the lock, even for an instant, could stand in the way of a run
    that begins; but the list shows no processes of other containers.
    """
    try:
        descriptor = os.open(run_dir / PROCESS_LOCK_NAME, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if _is_listed(os.fstat(descriptor)):
            return True
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_listed(lock: os.stat_result) -> bool:
    """Whether the system's list has the file, as `1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF`."""
    try:
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        return False
    place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    return any(words[1] == "FLOCK" and words[5] == place for line in lines if len(words := line.split()) >= 6)
