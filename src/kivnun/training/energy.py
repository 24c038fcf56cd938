"""Energy that a training used, from the counters that processors and GPUs keep themselves; nothing is estimated.

Processors: the packages of Linux' powercap (RAPL), which most systems let only root read. GPUs: NVIDIA's management
library, Volta and newer. A counter tells of the whole device, with whatever else runs on it.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
MICROJOULES, MILLIJOULES = 1e-6, 1e-3


@dataclass(frozen=True)
class Counter:
    """One device's count of the energy that it used.

    Attributes:
        read: The count; None where it cannot be read any more.
        joules_per_count: Its unit.
        largest: The count after which it begins at 0 again; None where it does not.
    """

    read: Callable[[], int | None]
    joules_per_count: float
    largest: int | None = None


@dataclass
class EnergyMeter:
    """Energy between two questions.

    Attributes:
        counters: What is read; without any, nothing is said.
    """

    counters: Sequence[Counter]
    _last: list[int | None] = field(init=False)

    def __post_init__(self) -> None:
        """Begin to count."""
        self._last = [counter.read() for counter in self.counters]

    def take_joules(self) -> float | None:
        """Joules since the last question, of all counters; None where one of them could not be read."""
        counts = [counter.read() for counter in self.counters]
        pairs = zip(self.counters, self._last, counts, strict=True)
        self._last = counts
        spent = [_difference(counter, before, after) for counter, before, after in pairs]
        known = [joules for joules in spent if joules is not None]
        return sum(known) if known and len(known) == len(spent) else None


def find_counters(device: torch.device, powercap: Path = POWERCAP) -> list[Counter]:
    """The counters of this machine that may be read.

    Args:
        device: Where is trained; of a GPU its own counter is read too.
        powercap: Where Linux shows the processors' counters.
    """
    packages = [_processor_counter(folder) for folder in sorted(powercap.glob("*-rapl:*")) if _is_package(folder)]
    graphics = _graphics_counter(device) if device.type == "cuda" else None
    found = [*packages, graphics]
    return [counter for counter in found if counter is not None and counter.read() is not None]


def _is_package(folder: Path) -> bool:
    """A whole processor, of which cores and memory controllers are parts with counters of their own."""
    try:
        return (folder / "name").read_text().startswith("package")
    except OSError:
        return False


def _processor_counter(folder: Path) -> Counter:
    def read() -> int | None:
        return _read_number(folder / "energy_uj")

    return Counter(read, MICROJOULES, _read_number(folder / "max_energy_range_uj"))


def _graphics_counter(device: torch.device) -> Counter | None:
    try:
        # Of the package nvidia-ml-py, which torch reads a GPU's load with as well.
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        identifier = torch.cuda.get_device_properties(device).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identifier}")
    # The package may be missing, and its errors are of its own kind.
    except Exception:  # noqa: BLE001
        return None

    def read() -> int | None:
        try:
            return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except Exception:  # noqa: BLE001 - see above
            return None

    return Counter(read, MILLIJOULES)


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _difference(counter: Counter, before: int | None, after: int | None) -> float | None:
    if before is None or after is None:
        return None
    counted = after - before
    if counted < 0:
        if counter.largest is None:
            return None
        counted += counter.largest
    return counted * counter.joules_per_count
