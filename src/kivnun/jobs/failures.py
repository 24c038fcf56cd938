"""Why the processes of a job ended, told to a client: no tracebacks, and no paths of this machine."""

import re
from pathlib import Path

from kivnun.errors import UserError
from kivnun.jobs.job_error import JobError, describe_failure
from kivnun.jobs.private_paths import without_paths
from kivnun.jobs.wording import Fields
from kivnun.runs.ending import UNEXPECTED

CRASHED = "job_crashed"
LOST = "too_many_attempts"
SERVER_ERROR = "server_error"
MEMORY = "out_of_memory"
RUN_LOCKED = "run-locked"
_PRINTED = re.compile(r"^error\[([a-z-]+)\]: (.+)$", re.MULTILINE)


def explain(failure: Fields | None, printed: str, folder: Path) -> JobError:
    """What a run that failed says for itself: in its log of events, or on its standard error where it had none yet.

    Args:
        failure: Its `run_failed` event.
        printed: What it printed.
        folder: The job's.
    """
    code, problem = printed_error(printed)
    if failure is not None:
        code, problem = str(failure.get("code")), str(failure.get("problem"))
    if code == UNEXPECTED:
        words = "The training failed unexpectedly; whoever runs the server finds the reason in the job's log"
        return JobError(SERVER_ERROR, words)
    return describe_failure(code, without_paths(problem, folder))


def printed_error(printed: str) -> tuple[str, str]:
    """Code and problem of the last error that a command printed; `unexpected` where it printed none.

    Args:
        printed: What it printed.
    """
    found = _PRINTED.findall(printed)
    return found[-1] if found else (UNEXPECTED, "")


def crashed(status: int, attempts: int) -> JobError:
    """The error of a job whose processes were killed or fell over, again and again.

    Args:
        status: The last exit status.
        attempts: How often it was tried.
    """
    how = f"signal {-status}" if status < 0 else f"status {status}"
    words = f"The job's process ended with {how}, {attempts} times without any progress; memory may be too small"
    return JobError(CRASHED, words)


def lost_too_often() -> JobError:
    """The error of a job under which workers die, or that they cannot go on with."""
    words = "The job was begun again and again without any progress: each time its worker was lost or could not go on"
    return JobError(LOST, words)


def worker_failed(error: Exception, folder: Path) -> JobError:
    """The error of a job that its worker, again and again, could not bring further, as where its disk is full.

    Args:
        error: What stopped the worker the last time.
        folder: The job's.
    """
    if isinstance(error, UserError):
        return describe_failure(error.code, without_paths(error.problem, folder))
    return lost_too_often()


def too_large(limit_bytes: int, need_bytes: int | None = None) -> JobError:
    """The error of a job that the machine has too little memory for.

    Args:
        limit_bytes: What jobs may take.
        need_bytes: What this one needs at least; None where it took too much while it ran.
    """
    limit = f"{limit_bytes / 2**30:.1f} GiB that this server may use"
    if need_bytes is None:
        return JobError(MEMORY, f"The job took more memory than the {limit}; try a smaller batch_size")
    return JobError(MEMORY, f"The job needs at least {need_bytes / 2**30:.1f} GiB of memory, more than the {limit}")
