"""What a job needs and what there is: whether it may start beside those that run.

The need is counted from the headers of the model's files, without loading it; the rule for activations is that of
`kivnun estimate`. While a job runs, what it really takes is kept in its row where that is more.
"""

import json
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import psutil

from kivnun.database.tables import FineTuningJob
from kivnun.jobs.owner import Owner

# Python, torch and the tokenizer, before any weight is there; as measured on Linux.
PROGRAM_BYTES = 700 * 2**20
FLOAT_BYTES, GRADIENT_AND_STATES = 4, 3
MOST_TOKENS_AT_ONCE = 8192
"""A run cuts larger batches itself where the memory is small."""
_LENGTH_BYTES = 8
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Shapes:
    """What the headers of a model's files say.

    Attributes:
        num_parameters: Numbers in all of them.
        num_bytes: Their size as they are stored.
        width: Inputs and outputs of all layers together, embeddings left out.
        num_matrices: How many matrices these layers have.
    """

    num_parameters: int
    num_bytes: int
    width: int
    num_matrices: int


def read_shapes(folder: Path) -> Shapes:
    """Read the headers of a model's `*.safetensors`.

    Args:
        folder: The model's.

    Reference: the format is documented at https://huggingface.co/docs/safetensors.
    """
    shapes = [(name, shape) for path in sorted(folder.glob("*.safetensors")) for name, shape in _read_header(path)]
    layers = [shape for name, shape in shapes if len(shape) == 2 and not _is_embedding(name)]
    return Shapes(
        num_parameters=sum(prod(shape) for _, shape in shapes),
        num_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        width=sum(map(sum, layers)),
        num_matrices=len(layers),
    )


def count_need(shapes: Shapes, *, rank: int | None, batch_tokens: int) -> int:
    """Bytes that a training takes, counted in float32, which is the most that it computes in.

    Args:
        shapes: Of the model.
        rank: Of its adapters; None where every weight is trained.
        batch_tokens: Tokens that are computed at once.
    """
    trained = shapes.num_parameters if rank is None else rank * shapes.width
    weights = FLOAT_BYTES * (shapes.num_parameters + (trained if rank is not None else 0))
    states = FLOAT_BYTES * GRADIENT_AND_STATES * trained
    activations = FLOAT_BYTES * min(batch_tokens, MOST_TOKENS_AT_ONCE) * shapes.width
    return PROGRAM_BYTES + weights + states + activations


def machine_bytes() -> int:
    """All memory of this machine, or of the container."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text("ascii")))
    return min(limits)


def free_bytes() -> int:
    """Memory that nothing uses now."""
    limits = [psutil.virtual_memory().available]
    pairs = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, used in pairs:
        with suppress(OSError, ValueError):
            total, taken = (int((Path("/sys/fs/cgroup") / name).read_text("ascii")) for name in (limit, used))
            limits.append(total - taken)
    return max(0, min(limits))


@dataclass(frozen=True)
class Room:
    """The memory that jobs of a machine may share.

    Attributes:
        here: A process of this machine.
        limit_bytes: For all jobs together.
    """

    here: Owner
    limit_bytes: int

    def admits(self, job: FineTuningJob, running: Iterable[FineTuningJob]) -> bool:
        """Whether a job fits beside those that run on this machine.

        A job by itself always fits: one that is too large for the machine was refused before. What it needs must be
        free besides, for other programs take memory too.

        Args:
            job: Would run.
            running: Run already, here or elsewhere.
        """
        beside = [other for other in running if (other.lease_owner or "").startswith(self.here.place)]
        if not beside:
            return True
        need = job.memory_bytes or 0
        return need + sum(other.memory_bytes or 0 for other in beside) <= self.limit_bytes and need <= free_bytes()


def visible_gpus() -> Sequence[str]:
    """The NVIDIA devices that jobs may use, by the numbers that CUDA gives them; none on a machine without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(place) for place, _ in enumerate(sorted(_GPUS.glob("*")))]


def _read_header(path: Path) -> list[tuple[str, list[int]]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        header = cast("dict[str, dict[str, list[int]]]", json.loads(file.read(length)))
    return [(name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"]


def _is_embedding(name: str) -> bool:
    return "embed" in name or "lm_head" in name
