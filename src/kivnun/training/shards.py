"""Tensors that several processes hold rows of: torch's DTensors, cut along their first dimension.

A process alone has none, and should not wait a second for torch to import them: whoever makes one has imported them.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Cut:
    """This process's rows of a tensor.

    Attributes:
        rows: The rows.
        start: Number of the first one in the whole tensor.
    """

    rows: Tensor
    start: int

    @property
    def stop(self) -> int:
        """The row after the last one."""
        return self.start + len(self.rows)


def is_cut(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether several processes hold rows of a tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def cut_of(tensor: Tensor) -> Cut | None:
    """This process's rows of a tensor that is cut; None for a whole one.

    Raises:
        ValueError: For a tensor that is cut in any other way than along its first dimension.
    """
    if not is_cut(tensor):
        return None
    if len(tensor.placements) != 1 or not tensor.placements[0].is_shard(0):
        raise ValueError(f"not cut along its rows alone: {tensor.placements}")
    rows = tensor.to_local()
    # As torch.chunk cuts: every process but the last ones has as many rows as the first.
    per_process = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * per_process, tensor.shape[0])
    if len(rows) != min(per_process, tensor.shape[0] - start):
        raise ValueError(f"{len(rows)} rows of {tuple(tensor.shape)} begin at none that is known")
    return Cut(rows, start)


def like(tensor: Tensor, rows: Tensor) -> Tensor:
    """A tensor that is cut as another one, made from this process's rows; the rows where that one is whole."""
    if not is_cut(tensor):
        return rows
    return type(tensor).from_local(
        rows, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def whole_norm(norm: Tensor) -> float:
    """A norm as a number, over the rows of all processes."""
    return float(norm.full_tensor() if is_cut(norm) else norm)


def values_of(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_cut(tensor) else tensor
