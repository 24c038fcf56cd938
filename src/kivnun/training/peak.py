"""The machine's own limit: floating-point operations per second of dense matrix products, measured once and kept.

A share of the data sheet's peak says little on a CPU, whose clock falls under load, and on a shared machine. So the
fastest square product of the same device, number format and number of threads is the limit. It takes a second, and is
kept in the user's cache folder.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from kivnun.errors import UserError
from kivnun.runs import write_atomic

SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
SECONDS_PER_SIZE = 0.4
CACHE_NAME = "matrix-rates.json"


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Floating-point operations per second of the fastest matrix product, from the cache or measured in a second.

    Returns:
        The rate; None where the memory left is too small to measure it.
    """
    name = _describe(device, dtype)
    rates = _read_rates()
    if name not in rates:
        rate = measure_peak(device, dtype)
        if rate is None:
            return None
        rates[name] = rate
        _write_rates(rates)
    return rates[name]


def forget_peak(device: torch.device, dtype: torch.dtype) -> None:
    """Measure anew the next time: something was faster, so another process slowed the measurement."""
    rates = _read_rates()
    if rates.pop(_describe(device, dtype), None) is not None:
        _write_rates(rates)


def measure_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Measure the rate; the state of the random numbers stays as it is."""
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for size in SIZES["cuda" if device.type == "cuda" else "cpu"]:
        # Zeros would be faster than any real product on a GPU, whose clock depends on the bits that flip.
        try:
            a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
            seconds = min(_time_products(a, b, torch.empty_like(a)))
        except torch.OutOfMemoryError:
            break
        best = max(best, 2 * size**3 / seconds)
        # The next size, of twice the width, takes eight times as long; where that is too long, this one must do.
        if 8 * seconds > SECONDS_PER_SIZE:
            break
    return best or None


@torch.no_grad()
def _time_products(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Iterator[float]:
    """Seconds of one product after another; the first, which also wakes threads and libraries, is not counted."""
    torch.mm(a, b, out=out)
    until = time.perf_counter() + SECONDS_PER_SIZE
    is_first = True
    while is_first or time.perf_counter() < until:
        is_first = False
        _wait(a.device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(a.device)
        yield time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _describe(device: torch.device, dtype: torch.dtype) -> str:
    """What a rate depends on."""
    number_format = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        tf32 = f" {torch.get_float32_matmul_precision()}" if dtype == torch.float32 else ""
        return f"{platform.node()} {torch.cuda.get_device_name(device)} {number_format}{tf32} torch {torch.__version__}"
    threads = f"{torch.get_num_threads()} threads"
    return f"{platform.node()} {_processor()} {number_format} {threads} torch {torch.__version__}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cache_path() -> Path:
    """The XDG base directory for caches; one that is not absolute is no such folder, as the specification says."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = chosen if chosen.is_absolute() else Path.home() / ".cache"
    return folder / "kivnun" / CACHE_NAME


def _read_rates() -> dict[str, float]:
    """The kept rates; a cache that cannot be read is an empty one."""
    try:
        found: object = json.loads(_cache_path().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(found, dict):
        return {}
    rates = cast("dict[str, object]", found)
    return {name: float(rate) for name, rate in rates.items() if isinstance(rate, int | float) and rate > 0}


def _write_rates(rates: dict[str, float]) -> None:
    # Without a folder to write to it is measured again the next time, which costs a second.
    with contextlib.suppress(OSError, UserError, RuntimeError):
        path = _cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(rates, indent=2) + "\n")
