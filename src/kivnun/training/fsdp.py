"""Fully sharded training: every process holds a part of each weight, of its gradient and of its optimizer state.

The weights of a decoder layer are put together for as long as it computes (FSDP: Zhao et al. 2023, arXiv:2304.11277;
ZeRO stage 3: Rajbhandari et al. 2020, arXiv:1910.02054), here by torch's `fully_shard`. What is trained is kept in
float32, so that the shard is its own master; it is rounded to the number format of the computation when it is gathered.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self, TypeVar, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from kivnun.data.packing import PackedBatch
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.load import move_model
from kivnun.models.types import Model
from kivnun.recipe.training import TrainingSection
from kivnun.training.ddp import DataParallel, has_rows_of_their_own, lost_processes, refuse_objective
from kivnun.training.device import decoder_layers
from kivnun.training.objectives.base import BatchLoss, MeasuresTable, Objective
from kivnun.training.optimizer import MasterWeights

METHODS = ("full", "partial", "lora")
"""Kinds of methods whose weights can be cut; 4-bit weights and what PEFT puts around a model cannot."""

Part = TypeVar("Part")
Result = TypeVar("Result")


class Root(nn.Module):
    """What all of a model's computing goes through, so that the weights outside of its layers are gathered too.

    Objectives call the model's parts and read the weight of its head; torch gathers weights where a module is called.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Result]) -> tuple[torch.Tensor | None, Result]:
        """The result, and beside it the tensor whose backward pass is to gather the weights again."""
        result = compute()
        return (result.total if isinstance(result, BatchLoss) else None), result


@dataclass(frozen=True)
class ShardedParallel(DataParallel):
    """The processes of a training that each hold a part of the model.

    Attributes:
        root: The sharded model; None before `place`.
    """

    root: Root | None = None

    def fill(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Enough of the first micro-batch that every process computes equally many."""
        most = -(-len(parts) // self.world_size)
        return [parts[0]] * (most - len(self.share(parts)))

    def run(self, compute: Callable[[], Result]) -> Result:
        """Compute something with the model, without gradients, in every process alike."""
        root = self._root()
        with torch.no_grad(), _shards_put_away(root), lost_processes():
            return root(compute)[1]

    def wrap(self, objective: Objective) -> Objective:
        """The objective with every use of the model inside the root's forward pass.

        Raises:
            UserError: `stage-unsupported` for one whose rows know of each other.
        """
        if not has_rows_of_their_own(objective):
            raise refuse_objective(objective)
        kind = ShardedMeasure if isinstance(objective, MeasuresTable) else ShardedObjective
        return kind(objective, self)

    def require(self, method: str, settings: TrainingSection) -> None:
        """Refuse what cannot be cut into shards.

        Raises:
            UserError: `stage-unsupported`.
        """
        if method not in METHODS:
            raise UserError(
                "stage-unsupported",
                f"the weights of the method {method} cannot be cut between processes",
                hint=f"set training.parallel: ddp, or choose one of {', '.join(METHODS)}",
            )
        if settings.optimizer == "adamw_8bit":
            raise UserError(
                "stage-unsupported",
                "the 8-bit averages of adamw_8bit cannot be cut between processes",
                hint="set training.optimizer: adamw, whose averages fsdp cuts, or training.parallel: ddp",
            )
        super().require(method, settings)

    def place(self, model: Model, device: torch.device, *, dtype: torch.dtype) -> Self:
        """Cut the model's weights into shards on the device, layer by layer."""
        self.align(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        mesh = init_device_mesh(device.type, (self.world_size,))
        root = Root(model)
        for module in (*decoder_layers(model), root):
            fully_shard(module, mesh=mesh, mp_policy=policy)
            if isinstance(module, FSDPModule):
                # Sums, not means: the loop divides once by the count of the whole step. gloo has no other reduction.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        move_model(model, device)
        return replace(self, root=root)

    def sum_gradients(self, weights: MasterWeights) -> None:
        """Nothing: a shard's gradient is summed over the processes in every backward pass."""
        del weights

    @torch.no_grad()
    def whole_model(self, model: Model, weights: MasterWeights, make: Callable[[], Model]) -> Model:
        """The trained model in one piece on the CPU, in the first process; the others get what they gave."""
        whole = make() if self.leads else model
        for name, master in weights.masters.items():
            full = master.full_tensor() if isinstance(master, DTensor) else master
            if self.leads:
                whole.get_parameter(name).copy_(full)
        return whole

    def compute_loss(self, compute: Callable[[], BatchLoss]) -> BatchLoss:
        """A loss whose backward pass may follow."""
        root = self._root()
        if torch.is_grad_enabled():
            with lost_processes():
                return root(compute)[1]
        return self.run(compute)

    def _root(self) -> Root:
        if self.root is None:
            raise AssertionError("the model is not placed yet")
        return self.root


@contextmanager
def _shards_put_away(root: Root) -> Iterator[None]:
    """Give the root's gathered weights free afterwards: without a backward pass torch would keep them.

    Kept ones would also be old ones, once a checkpoint is loaded into the shards.
    """
    try:
        yield
    finally:
        if isinstance(root, FSDPModule):
            root.reshard()


@dataclass(frozen=True)
class ShardedObjective:
    """An objective whose every use of the model is inside the root's forward pass.

    Attributes:
        inner: The objective.
        parallel: The processes.
    """

    inner: Objective
    parallel: ShardedParallel

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table as the inner objective makes it."""
        return self.parallel.run(lambda: self.inner.start(model, table, batch_tokens=batch_tokens))

    def count(self, batch: PackedBatch) -> float:
        """The inner objective's count."""
        return self.inner.count(batch)

    def prepare_step(self, model: nn.Module, batches: Sequence[PackedBatch]) -> Sequence[object]:
        """What the inner objective prepares: nothing, or it would be refused."""
        return self.inner.prepare_step(model, batches)

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """The inner objective's loss."""
        return self.parallel.compute_loss(lambda: self.inner.loss(model, batch, prepared))


@dataclass(frozen=True)
class ShardedMeasure(ShardedObjective):
    """An objective that measures a whole table by itself."""

    def measure(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> dict[str, float]:
        """The inner objective's metrics."""
        inner = cast("MeasuresTable", self.inner)
        return self.parallel.run(lambda: inner.measure(model, table, batch_tokens=batch_tokens))
