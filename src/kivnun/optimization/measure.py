"""What a model costs to keep and to run: bytes on disk, tokens per second, time to the first token, memory.

ONNX forms are measured in a process of their own (`speed_worker.py`), which holds nothing but the runtime and the
model: only there is the peak of its memory the model's.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.generation.engine import Engine
from kivnun.generation.sampling import Sampling

WORKER = Path(__file__).with_name("speed_worker.py")
NUM_TOKENS = 32
SPEED_PROMPTS = 4
"""The speed of each form is measured on a few prompts only; every prompt counts for parity."""
ENOUGH_SECONDS = 2.0
"""After so long nothing is measured again: of a large model one pass is long, and beside that noise is small."""


@dataclass(frozen=True)
class Speed:
    """How fast an ONNX folder answers one request at a time.

    Attributes:
        num_threads: Cores that one token uses; None for all.
        tokens_per_second: Generated tokens, reading the prompts included.
        first_token_ms: Median time from a prompt to its first token.
        load_seconds: Time until the model is ready.
        memory_bytes: Most memory of a process that holds the model and answers.
    """

    num_threads: int | None
    tokens_per_second: float
    first_token_ms: float
    load_seconds: float
    memory_bytes: int


def with_speed(row: ParityRow, speed: Speed) -> ParityRow:
    """A line of the parity table with what was measured."""
    return replace(
        row,
        tokens_per_second=speed.tokens_per_second,
        first_token_ms=speed.first_token_ms,
        memory_bytes=speed.memory_bytes,
        num_threads=speed.num_threads,
    )


def folder_size_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def thread_choices() -> tuple[int, ...]:
    """Numbers of threads worth trying: one, every physical core, every logical one."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = min(psutil.cpu_count(logical=False) or logical, logical)
    return tuple(sorted({1, physical, logical}))


def measure_onnx(
    folder: Path, prompts: Sequence[Sequence[int]], *, threads: Sequence[int | None] = (None,)
) -> list[Speed]:
    """Measure an ONNX folder, once for each number of threads, each in a fresh process.

    Args:
        folder: The ONNX folder.
        prompts: Token ids of a few prompts.
        threads: Cores that one token may use; None for all.

    Raises:
        UserError: `export-failed` where the folder cannot be run.
    """
    return [_measure_once(folder, prompts, num_threads) for num_threads in threads]


def _measure_once(folder: Path, prompts: Sequence[Sequence[int]], num_threads: int | None) -> Speed:
    request = {
        "folder": str(folder.resolve()),
        "prompts": [list(prompt) for prompt in prompts],
        "num_tokens": NUM_TOKENS,
        "num_threads": num_threads,
    }
    # -P keeps this package's folder off the child's sys.path, where our onnx.py would hide the onnx package.
    ended = subprocess.run(  # noqa: S603 - our own interpreter and file, no shell
        [sys.executable, "-P", str(WORKER), str(os.getpid())],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
    )
    if ended.returncode != 0:
        raise UserError(
            "export-failed",
            f"{folder} could not be measured",
            hint="export the model again; the lines above say what the runtime refused",
            details=ended.stderr.decode(errors="replace").splitlines()[-10:],
        )
    return Speed(num_threads=num_threads, **json.loads(ended.stdout.splitlines()[-1]))


def decode_tokens_per_second(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int = NUM_TOKENS,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Generated tokens per second, reading the prompts included; the median of the repeats after one warm-up.

    Every answer is run to `num_tokens` (no stop token), so that two forms of a model do the same work. A slow model is
    measured fewer times, and at the slowest by what would have been the warm-up.

    Args:
        engine: The model.
        prompts: Token ids of each prompt.
        num_tokens: Length of each answer.
        repeats: How often it is measured.
        clock: Seconds.
    """
    rates: list[float] = []
    begun = started = clock()
    while len(rates) <= repeats and started - begun < ENOUGH_SECONDS:
        answers = engine.generate(prompts, max_new_tokens=num_tokens, stop_ids=frozenset())
        ended = clock()
        rates.append(sum(len(answer.token_ids) for answer in answers) / (ended - started))
        started = ended
    return statistics.median(rates[1:] or rates)


def first_token_ms(
    engine: Engine, prompts: Sequence[Sequence[int]], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median milliseconds from a prompt to its first token, one request at a time, after one warm-up.

    Args:
        engine: The model.
        prompts: Token ids of each prompt.
        clock: Seconds.
    """
    times = []
    for prompt in (prompts[0], *prompts):
        started = clock()
        next(engine.stream(prompt, max_new_tokens=1, stop_ids=frozenset(), sampling=Sampling()))
        times.append(1000 * (clock() - started))
    return statistics.median(times[1:])
