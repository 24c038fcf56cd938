"""What a worker has to work with, and how it waits for a process of a job while it keeps the lease alive."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kivnun.database.open import Database
from kivnun.jobs.leash import NICENESS, Leashed
from kivnun.jobs.memory import Room
from kivnun.jobs.owner import Owner
from kivnun.jobs.queue import heartbeat, held

LOOK_SECONDS = 0.1
HEARTBEAT_SECONDS = 1.0
MEMORY_SECONDS = 0.5
PATIENCE_SECONDS = {"pause": 60.0, "cancel": 3.0, "stop": 30.0, "memory": 0.0}
"""How long a process may take to save and end, by the reason why it should."""
Why = Literal["", "pause", "cancel", "stop", "memory"]


@dataclass(frozen=True)
class Work:
    """What a worker has to work with.

    Attributes:
        database: Where jobs are.
        data_dir: The server's data folder.
        owner: This process.
        room: The memory of this machine.
        strict: Whether files are refused that the hosted service refuses.
        is_stopping: Whether the worker was asked to end.
        log: Takes what happens to jobs: `log(event, fields)`.
        niceness: How far jobs stand back behind other programs, such as the server.
    """

    database: Database
    data_dir: Path
    owner: Owner
    room: Room
    strict: bool
    is_stopping: Callable[[], bool]
    log: Callable[[str, Mapping[str, object]], None]
    niceness: int = NICENESS

    def folder(self, job_id: str) -> Path:
        """The folder of a job."""
        return self.data_dir / "jobs" / job_id

    def file(self, file_id: str) -> Path:
        """The bytes of a file."""
        return self.data_dir / "files" / file_id


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Its exit status, negative for a signal.
        why: What it was asked to end for; "" where it was not.
    """

    status: int
    why: Why


def attend(work: Work, job_id: str, process: Leashed, *, look: Callable[[], None]) -> Ended:
    """Wait until a process ends, and see to it that it does when somebody wants that.

    Args:
        work: Of the worker.
        job_id: Whose lease is kept alive.
        process: Computes for it; ended if anything goes wrong here, so that nobody computes without a lease.
        look: Called again and again, the last time when the process has ended.

    Raises:
        LeaseLostError: Somebody else works at the job now.
    """
    why: Why = ""
    next_beat, next_memory, deadline = time.monotonic() + HEARTBEAT_SECONDS, 0.0, float("inf")
    peak = 0
    try:
        while True:
            status = process.poll()
            look()
            if status is not None:
                return Ended(status, why)
            now = time.monotonic()
            reason = why
            if now >= next_beat:
                next_beat = now + HEARTBEAT_SECONDS
                reason = _beat(work, job_id) or reason
            if now >= next_memory:
                next_memory = now + MEMORY_SECONDS
                peak = _watch_memory(work, job_id, process.memory_bytes(), peak)
                reason = "memory" if peak > work.room.limit_bytes else reason
            if reason != why:
                # A cancelled pause does not bring back what was told to end; a cancelled job waits no longer.
                process.interrupt()
                deadline = min(deadline, now + PATIENCE_SECONDS[reason])
                why = reason
            if now > deadline:
                process.kill()
            time.sleep(LOOK_SECONDS)
    finally:
        process.kill()


def _beat(work: Work, job_id: str) -> Why:
    with work.database.writing() as session:
        wanted = heartbeat(session, job_id, str(work.owner))
    if wanted == "cancel":
        return "cancel"
    if wanted == "pause":
        return "pause"
    return "stop" if work.is_stopping() else ""


def _watch_memory(work: Work, job_id: str, now_bytes: int, peak: int) -> int:
    """Keep in the job's row what it takes, where that is more than was thought."""
    if now_bytes <= peak * 1.1:
        return max(peak, now_bytes)
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        if job.memory_bytes is not None and now_bytes > job.memory_bytes:
            job.memory_bytes = now_bytes
    return now_bytes


def wait_while(is_so: Callable[[], bool], *, seconds: float) -> bool:
    """Wait as long as something is so; False if that takes too long.

    Args:
        is_so: Whether it is.
        seconds: How long is too long.
    """
    end = time.monotonic() + seconds
    while is_so():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_SECONDS)
    return True
