"""The name under which a worker holds a lease: it tells every other process of the machine whether the holder lives.

A lease that nobody renews ends by itself after a while; on the same machine nobody needs to wait for that, since a
name holds what Linux knows of a process: `HOST/BOOT/NAMESPACE/PID/STARTED`. Process numbers are used again, and
are counted anew in every container and after every start of the machine, which is why the other parts are there.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_HOST_LETTERS, _BOOT_LETTERS = 64, 12
_START_TIME_FIELD = 22
_DEAD_STATES = ("Z", "X")


@dataclass(frozen=True)
class Owner:
    """A process, by what tells it from every other one.

    Attributes:
        host: Name of the machine.
        boot: Changes whenever the machine starts.
        namespace: Where process numbers are counted.
        pid: The process.
        started: When it began, in ticks since the machine started.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: int

    def __str__(self) -> str:
        """As a lease keeps it."""
        return f"{self.host}/{self.boot}/{self.namespace}/{self.pid}/{self.started}"

    @property
    def place(self) -> str:
        """What processes share that share this machine's memory and process numbers."""
        return f"{self.host}/{self.boot}/{self.namespace}/"


def this_process() -> Owner:
    """The calling process."""
    boot = _BOOT.read_text("ascii").strip()[:_BOOT_LETTERS] if _BOOT.exists() else "unknown"
    host = platform.node().replace("/", "-")[:_HOST_LETTERS] or "unknown"
    return Owner(host, boot, _namespace(), os.getpid(), started_at(os.getpid()) or 0)


def is_gone(name: str, here: Owner) -> bool:
    """Whether the process of a lease is known to have ended; False where that cannot be known from here.

    Args:
        name: Of the lease.
        here: The process that asks.
    """
    parts = name.split("/")
    if not name.startswith(here.place) or len(parts) != len(here.__dataclass_fields__):
        return False
    pid, started = int(parts[3]), int(parts[4])
    # Systems without /proc tell nothing: there a lease is waited for.
    return started != 0 and started_at(pid) != started


def started_at(pid: int) -> int | None:
    """When a living process began, in ticks since the machine started; None where there is none.

    Reference: proc_pid_stat(5); the second field is a name that may hold spaces and brackets.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None if after_name[0] in _DEAD_STATES else int(after_name[_START_TIME_FIELD - 3])


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"
