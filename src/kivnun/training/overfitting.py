"""Overfitting in words: the validation loss rises while the training loss goes on falling."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RISES = 2
"""Validations in a row that must be worse than the one before: one alone is most often noise."""


@dataclass(frozen=True)
class LossPair:
    """The losses at one validation.

    Attributes:
        step: Optimizer steps done.
        train: Mean training loss of the steps since the validation before.
        validation: Validation loss.
    """

    step: int
    train: float
    validation: float


def describe_overfitting(history: Sequence[LossPair]) -> str | None:
    """What to say after the latest validation, or None where nothing suggests that the model began to overfit.

    Args:
        history: Every validation so far, oldest first.
    """
    recent = history[-RISES - 1 :]
    if len(recent) <= RISES:
        return None
    rises = all(later.validation > earlier.validation for earlier, later in pairwise(recent))
    falls = recent[-1].train < recent[0].train
    if not (rises and falls):
        return None
    best = min(history, key=lambda pair: pair.validation)
    return (
        f"the validation loss rose {RISES} times in a row, from {recent[0].validation:.4f} to "
        f"{recent[-1].validation:.4f}, while the training loss fell from {recent[0].train:.4f} to "
        f"{recent[-1].train:.4f}: the model learns the training rows by heart; step {best.step} was the best. "
        "Fewer epochs, a lower learning rate, dropout or more rows help; early_stopping_patience stops such a run"
    )
