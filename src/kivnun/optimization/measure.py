"""What a model costs to keep and to run: bytes on disk, tokens per second."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kivnun.generation.engine import Engine


def folder_size_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def decode_tokens_per_second(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int = 32,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Generated tokens per second, reading the prompts included; the median of the repeats after one warm-up.

    Every answer is run to `num_tokens` (no stop token), so that two forms of a model do the same work.

    Args:
        engine: The model.
        prompts: Token ids of each prompt.
        num_tokens: Length of each answer.
        repeats: How often it is measured.
        clock: Seconds.
    """
    rates = []
    for _ in range(repeats + 1):
        started = clock()
        answers = engine.generate(prompts, max_new_tokens=num_tokens, stop_ids=frozenset())
        rates.append(sum(len(answer.token_ids) for answer in answers) / (clock() - started))
    return statistics.median(rates[1:])
