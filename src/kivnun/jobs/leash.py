"""Processes that compute for a job: each in a group of its own, and none outlives the worker that started it.

A worker that is killed cannot stop what it started, so Linux does (PR_SET_PDEATHSIG). It reaches only the process
itself and not what that one started, for which there is a mark in the environment by which whoever takes the job over
finds what is left. The lock of the run folder is the last fence: two processes never write to one run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import psutil

MARK, START = "KIVNUN_JOB", "KIVNUN_JOB_START"
NICENESS = 5
_TAIL_BYTES = 16_384
KILL_SECONDS = 5.0
_OOM_SCORE = 900
"""Where memory runs out, Linux ends these first, and not the server."""
# Runs before the real program, in a process that has no threads: nothing of the worker's own is touched after a fork.
# A signal that the worker ignores, as programs in the background do, would be ignored by what it starts too.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write(sys.argv[3])
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.nice(int(sys.argv[2]))
try:
    # Where Linux shares the time among sessions, it is the session's own niceness that counts.
    with open("/proc/self/autogroup", "w") as group:
        group.write(sys.argv[2])
except OSError:
    pass
os.execv(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True)
class Leashed:
    """A process of a job.

    Attributes:
        process: The first of its group.
        start: What it and all that it starts have in their environment, and nothing else has.
        log: Takes what it prints.
        log_start: Where in the log that begins.
    """

    process: "subprocess.Popen[bytes]"
    start: str
    log: Path
    log_start: int

    def printed(self) -> str:
        """The end of what it printed."""
        with self.log.open("rb") as file:
            file.seek(max(self.log_start, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it lives."""
        return self.process.poll()

    def interrupt(self) -> None:
        """Ask it to save and end; only the first process, which knows of the others."""
        if self.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it and everything that it started, and wait until it is gone.

        Not all that has the job's mark: where the lease was lost, somebody else computes for the job already.
        """
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _kill_all(START, self.start)

    def memory_bytes(self) -> int:
        """What it and its children hold now."""
        try:
            process = psutil.Process(self.process.pid)
            return sum(_resident(one) for one in (process, *process.children(recursive=True)))
        except psutil.Error:
            return 0


def start(
    arguments: Sequence[str],
    *,
    folder: Path,
    log: Path,
    mark: str,
    niceness: int = NICENESS,
    environment: Mapping[str, str] | None = None,
) -> Leashed:
    """Start Python with these arguments.

    Args:
        arguments: Of the interpreter, such as `-m kivnun run recipe.yaml`.
        folder: Where it works.
        log: Takes what it prints, behind what is there.
        mark: Says which job it works for.
        niceness: How far it stands back behind other programs.
        environment: Added to this process's own.
    """
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(niceness), str(_OOM_SCORE)]
    start_id = token_hex(8)
    with log.open("ab") as output:
        log_start = log.stat().st_size
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules, no shell
            [*command, sys.executable, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {}), MARK: mark, START: start_id},
            process_group=0,
        )
    return Leashed(process, start_id, log, log_start)


def kill_marked(mark: str) -> int:
    """End what is left of a job's processes on this machine, and wait until it is gone.

    Args:
        mark: Of the job.

    Returns:
        How many there were.
    """
    return _kill_all(MARK, mark)


def _kill_all(variable: str, value: str) -> int:
    """End all that has this in its environment."""
    wanted = f"{variable}={value}".encode()
    found = 0
    end = time.monotonic() + KILL_SECONDS
    while pids := _marked(wanted):
        found = max(found, len(pids))
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return found


def _marked(wanted: bytes) -> list[int]:
    """Living processes of this user with these words in their environment."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # A process that has ended but was not waited for has no environment.
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
