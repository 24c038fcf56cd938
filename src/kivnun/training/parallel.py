"""Several processes that train one model: which part of a step each does, and what they add up.

This is the seam, and one process by itself; `ddp` and `fsdp` are what `torchrun` starts several of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import torch

from kivnun.errors import UserError
from kivnun.models.load import move_model
from kivnun.models.types import Model
from kivnun.recipe.training import TrainingSection
from kivnun.training.objectives.base import Objective
from kivnun.training.optimizer import MasterWeights

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StepSums:
    """What the micro-batches of one step add up to, over all processes."""

    loss: float
    count: float
    num_tokens: int
    num_targets: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Parallel:
    """The processes of a training; this one is alone.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This process's part of the micro-batches."""
        return parts[self.rank :: self.world_size]

    def fill(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Micro-batches that this process computes without counting them, where all must compute equally many."""
        del parts
        return []

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, plain data, in their order; each must ask."""
        return [value]

    def run(self, compute: Callable[[], Result]) -> Result:
        """Compute something with the model, without gradients, in every process alike."""
        return compute()

    def wrap(self, objective: Objective) -> Objective:
        """The objective as it is computed by these processes.

        Raises:
            UserError: `stage-unsupported` where it cannot be.
        """
        return objective

    def require(self, method: str, settings: TrainingSection) -> None:
        """Refuse, before anything is trained, what these processes cannot do together.

        Args:
            method: Kind of the recipe's method.
            settings: The recipe's `training` section.

        Raises:
            UserError: `stage-unsupported`.
        """

    def place(self, model: Model, device: torch.device, *, dtype: torch.dtype) -> Self:
        """Put a model on the device, wholly or this process's part of it; called once, before its weights are used.

        Args:
            model: The model on the CPU; it is changed.
            device: Where to compute.
            dtype: Number format of the computation.
        """
        del dtype
        move_model(model, device)
        return self

    def whole_model(self, model: Model, weights: MasterWeights, make: Callable[[], Model]) -> Model:
        """The trained model in one piece, in the first process; the others get what they gave.

        Args:
            model: The model in training.
            weights: Its trainable weights.
            make: Makes the same model as it was before the training.
        """
        del weights, make
        return model

    def part(self) -> None:
        """End the work together: what follows is the first process's alone."""

    def sum_gradients(self, weights: MasterWeights) -> None:
        """Replace the gradients of the masters by their sum over all processes."""

    def sum_step(self, sums: StepSums) -> StepSums:
        """The sums of all processes."""
        every = [StepSums(**fields) for fields in self.gather({**vars(sums), "metrics": dict(sums.metrics)})]
        metrics: dict[str, float] = {}
        for one in every:
            for name, value in one.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + value
        return StepSums(
            loss=sum(one.loss for one in every),
            count=sum(one.count for one in every),
            num_tokens=sum(one.num_tokens for one in every),
            num_targets=sum(one.num_targets for one in every),
            metrics=metrics,
        )

    def together(self, action: Callable[[], Result]) -> Result:
        """Do something in every process; what fails in one fails in all, so that none waits for another in vain.

        Raises:
            UserError: This process's own, or else that of the first process that has one.
        """
        result, failure = None, None
        try:
            result = action()
        except UserError as error:
            failure = error
        told = self.gather(None if failure is None else _describe(failure))
        if failure is not None:
            raise failure
        for other in told:
            if other is not None:
                raise UserError(other["code"], other["problem"], hint=other["hint"], details=other["details"])
        return cast("Result", result)


def _describe(error: UserError) -> dict[str, object]:
    return {"code": error.code, "problem": error.problem, "hint": error.hint, "details": list(error.details)}


ALONE = Parallel()
"""One process, which does it all."""
