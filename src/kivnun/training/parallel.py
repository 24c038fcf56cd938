"""Several processes that train one model: which part of a step each does, and what they add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kivnun.training.optimizer import MasterWeights

Part = TypeVar("Part")


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
    """The processes of a training.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This process's part of the micro-batches."""
        return parts[self.rank :: self.world_size]

    def sum_step(self, sums: StepSums) -> StepSums:
        """The sums of all processes."""
        return sums

    def sum_gradients(self, weights: MasterWeights) -> None:
        """Replace the gradients of the masters by their sum over all processes."""


ALONE = Parallel()
"""One process, which does it all."""
