"""Data-parallel training: every process holds the whole model and takes its share of a step's micro-batches.

Gradients are summed once a step, in float32 and in flat buckets; what is learnt is what one process would learn, but
for the order in which numbers are added (Li et al. 2020, arXiv:2006.15704).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from kivnun.errors import UserError
from kivnun.models.types import Model
from kivnun.recipe.training import TrainingSection
from kivnun.training.objectives import make_objective
from kivnun.training.objectives.base import Objective, RowwiseObjective
from kivnun.training.optimizer import MasterWeights
from kivnun.training.parallel import Parallel

BUCKET_VALUES = 2**24
"""Values that are summed at once: 64 MiB of float32."""
_LOST = ("connection", "gloo", "nccl", "timed out", "timeout", "broken pipe", "socket")


@dataclass(frozen=True)
class DataParallel(Parallel):
    """The processes of a training that each hold the whole model."""

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, plain data, in their order; each must ask.

        Raises:
            UserError: `process-lost` where another process ended.
        """
        with lost_processes():
            data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
            distributed.all_gather(sizes, torch.tensor([len(data)]))
            longest = max(int(size) for size in sizes)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(data)] = data
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
            distributed.all_gather(texts, padded)
        return [json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)]

    def require(self, method: str, settings: TrainingSection) -> None:
        """Refuse an objective that several processes cannot share.

        Raises:
            UserError: `stage-unsupported`.
        """
        del method
        self.wrap(make_objective(settings.objective))

    def part(self) -> None:
        """End the work together: what follows is the first process's alone."""
        with lost_processes():
            distributed.barrier()
            distributed.destroy_process_group()

    def wrap(self, objective: Objective) -> Objective:
        """The objective as it is.

        Raises:
            UserError: `stage-unsupported` for one whose rows know of each other and that does not ask the others.
        """
        if not has_rows_of_their_own(objective) and not getattr(objective, "asks_other_processes", False):
            raise refuse_objective(objective)
        return objective

    def place(self, model: Model, device: torch.device, *, dtype: torch.dtype) -> Self:
        """Put the whole model on the device, the same one in every process."""
        self.align(model)
        return super().place(model, device, dtype=dtype)

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        """Take what is trained from the first process where it differs, whatever a method drew at random."""
        trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
        sums = self.gather([float(tensor.double().sum()) for tensor in trained])
        if all(others == sums[0] for others in sums):
            return
        with lost_processes():
            for bucket in cut_into_buckets(trained):
                flat = torch.cat([tensor.float().reshape(-1) for tensor in bucket])
                distributed.broadcast(flat, 0)
                _copy_back(flat, bucket)

    def sum_gradients(self, weights: MasterWeights) -> None:
        """Replace the gradients of the masters by their sum over all processes.

        A process without a micro-batch counts as zero; a weight that got no gradient anywhere still has none.
        """
        masters = list(weights.masters.values())
        has_gradient = torch.tensor([master.grad is not None for master in masters], dtype=torch.int32)
        with lost_processes():
            distributed.all_reduce(has_gradient)
            trained = [master for master, count in zip(masters, has_gradient.tolist(), strict=True) if count]
            for master in trained:
                if master.grad is None:
                    master.grad = torch.zeros_like(master)
            for bucket in cut_into_buckets([master.grad for master in trained if master.grad is not None]):
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                distributed.all_reduce(flat)
                _copy_back(flat, bucket)


def has_rows_of_their_own(objective: Objective) -> bool:
    """Whether the batches of a step need not know of each other: `prepare_step` is the one that does nothing."""
    return getattr(type(objective), "prepare_step", None) is RowwiseObjective.prepare_step


def refuse_objective(objective: Objective) -> UserError:
    """The error of an objective that several processes cannot share."""
    return UserError(
        "stage-unsupported",
        f"the objective {type(objective).__name__.lower()} compares all rows of a step, which no process alone has",
        hint="train with one process, without torchrun; kto and contrastive can be trained with training.parallel: ddp",
    )


def cut_into_buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of up to `BUCKET_VALUES` values together; a larger one is a bucket of its own."""
    bucket: list[Tensor] = []
    room = BUCKET_VALUES
    for tensor in tensors:
        if bucket and tensor.numel() > room:
            yield bucket
            bucket, room = [], BUCKET_VALUES
        bucket.append(tensor)
        room -= tensor.numel()
    if bucket:
        yield bucket


def _copy_back(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    for tensor, piece in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(piece.view(tensor.shape))


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception of torch's says that another process cannot be reached."""
    if isinstance(error, distributed.DistError):
        return True
    # Gloo raises plain runtime errors.
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)


@contextmanager
def lost_processes() -> Iterator[None]:
    """Say in words that another process ended.

    Raises:
        UserError: `process-lost`.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise UserError(
            "process-lost",
            f"another process of this training ended or cannot be reached: {str(error).splitlines()[0]}",
            hint="see what it said last; the same command goes on from the latest checkpoint",
        ) from error
