"""The seam of objectives: what is learnt from a batch of rows.

An objective gives a sum over a batch's rows or tokens and what it is to be divided by. The loop divides once, by the
count of the whole optimizer step, so that cutting a batch into smaller ones changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from kivnun.data.packing import PackedBatch
from kivnun.data.tokens import TokenTable


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch.

    Attributes:
        total: A scalar whose gradient is trained: the sum over the batch, not the mean.
        value: The sum that is reported, where it is not `total` itself.
        metrics: Further sums to report, such as the number of pairs put in the right order; each is divided by the
            step's count.
        num_targets: Tokens that are learnt, where these are not all targets of the batch.
    """

    total: Tensor
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    num_targets: int | None = None

    @property
    def reported(self) -> float:
        """The sum that is reported."""
        return float(self.total.detach()) if self.value is None else self.value


class Objective(Protocol):
    """What is learnt. `OBJECTIVES` lists the built-in ones; yours is an entry point of `kivnun.objectives`."""

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table as it is trained on, asked once per split while the model's weights are still the base model's.

        Args:
            model: The model before its first step.
            table: The rows of a split.
            batch_tokens: Tokens that may be computed at once.
        """
        ...

    def count(self, batch: PackedBatch) -> float:
        """What the batch adds to the number that the step's sum is divided by: its trained tokens, or its rows."""
        ...

    def prepare_step(self, model: nn.Module, batches: Sequence[PackedBatch]) -> Sequence[object]:
        """What the losses of a step's batches need to know of each other, one value a batch; no gradients here.

        Args:
            model: The model, in training mode; the random numbers of dropout are those that `loss` will draw.
            batches: The micro-batches of one optimizer step.
        """
        ...

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """The loss of a batch.

        Args:
            model: The model.
            batch: The batch.
            prepared: What `prepare_step` gave for it.
        """
        ...


@runtime_checkable
class MeasuresTable(Protocol):
    """An objective whose metrics are of a whole table and not sums over its batches, such as a rank among all rows."""

    def measure(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> dict[str, float]:
        """The `loss` and further metrics of a table.

        Args:
            model: The model, which is left in evaluation mode.
            table: The rows of a split.
            batch_tokens: Tokens that may be computed at once.
        """
        ...


class RowwiseObjective:
    """An objective whose rows do not know of each other; a subclass writes `loss`, and `count` if it is not tokens."""

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table as it is."""
        del model, batch_tokens
        return table

    def count(self, batch: PackedBatch) -> float:
        """The number of trained tokens, each by its weight."""
        return len(batch.target_ids) if batch.target_weights is None else float(batch.target_weights.sum())

    def prepare_step(self, model: nn.Module, batches: Sequence[PackedBatch]) -> Sequence[object]:
        """Nothing."""
        del model
        return [None] * len(batches)
