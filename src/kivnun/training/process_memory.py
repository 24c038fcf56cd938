"""What memory this process has left: one reading of the system for all who ask."""

import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch


def free_memory_bytes(device: torch.device) -> int:
    """Memory that could still be filled: of the GPU, or of the machine within the limits of this process."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [psutil.virtual_memory().available]
    process = psutil.Process()
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space - process.memory_info().vms)
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        # A container's own limit, of cgroup version 2 and 1; outside of one there is no such file.
        with suppress(OSError, ValueError):
            limits.append(int(_read_cgroup(limit)) - int(_read_cgroup(used)))
    return max(0, min(limits))


def _read_cgroup(name: str) -> str:
    folder = Path("/sys/fs/cgroup")
    return (folder / name if (folder / name).exists() else folder / "memory" / name).read_text("ascii").strip()
