"""What can be learnt, by the `kind` of a recipe's `training.objective`."""

from collections.abc import Callable
from typing import Any

from kivnun.recipe import objectives as sections
from kivnun.training.objectives.base import BatchLoss, Objective, RowwiseObjective
from kivnun.training.objectives.classification import Classification
from kivnun.training.objectives.contrastive import Contrastive
from kivnun.training.objectives.custom import describe_custom, load_custom
from kivnun.training.objectives.dpo import Dpo
from kivnun.training.objectives.kto import Kto
from kivnun.training.objectives.orpo import Orpo
from kivnun.training.objectives.supervised import Supervised

NEXT_TOKEN_KINDS = ("supervised", "text")
"""The kinds that predict every trained token, so that it can be counted how many were right."""

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "supervised": lambda _section: Supervised(),
    "text": lambda _section: Supervised(),
    "dpo": lambda section: Dpo(section.beta, section.label_smoothing),
    "orpo": lambda section: Orpo(section.beta),
    "kto": lambda section: Kto(section.beta, section.desirable_weight, section.undesirable_weight),
    "classification": lambda _section: Classification(),
    "contrastive": Contrastive,
    "custom": load_custom,
}


def make_objective(section: sections.Objective, *, token_accuracy: bool = False) -> Objective:
    """The objective that a recipe's section describes.

    Args:
        section: The recipe's `training.objective`.
        token_accuracy: Whether it reports how many tokens the model holds for the likeliest, where it can.
    """
    if token_accuracy and section.kind in NEXT_TOKEN_KINDS:
        return Supervised(token_accuracy=True)
    return OBJECTIVES[section.kind](section)


def describe_objective(section: sections.Objective) -> dict[str, str]:
    """What a training depends on beside the section: package and source of a user's own loss."""
    return describe_custom(section) if isinstance(section, sections.CustomObjective) else {}


__all__ = [
    "NEXT_TOKEN_KINDS",
    "OBJECTIVES",
    "BatchLoss",
    "Objective",
    "RowwiseObjective",
    "describe_objective",
    "make_objective",
]
