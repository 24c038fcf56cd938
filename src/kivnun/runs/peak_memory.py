"""The most memory that this process ever held."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
_KIB = 1024


def peak_memory_bytes() -> int:
    """The most memory that this process ever held.

    On Linux not `getrusage`, whose maximum a process inherits from the one that started it.
    """
    lines = STATUS.read_text("utf-8").splitlines() if STATUS.is_file() else []
    peak = next((int(line.split()[1]) * _KIB for line in lines if line.startswith("VmHWM:")), None)
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
