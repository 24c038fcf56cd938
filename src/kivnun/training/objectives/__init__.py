"""What can be learnt, by the `kind` of a recipe's `training.objective`."""

from collections.abc import Callable
from typing import Any

from kivnun.recipe import objectives as sections
from kivnun.training.objectives.base import BatchLoss, Objective, RowwiseObjective
from kivnun.training.objectives.supervised import Supervised

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "supervised": lambda _section: Supervised(),
    "text": lambda _section: Supervised(),
}


def make_objective(section: sections.Objective) -> Objective:
    """The objective that a recipe's section describes."""
    return OBJECTIVES[section.kind](section)


__all__ = ["OBJECTIVES", "BatchLoss", "Objective", "RowwiseObjective", "make_objective"]
