"""Which arms there are, from the cheapest to the dearest, and which of them cannot be run, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.recipe.decide import ARMS, DecideSection
from kivnun.recipe.schema import NewModel, Recipe

TRAINED = ("tuned", "rag_tuned")
RETRIEVING = ("rag", "rag_tuned")
"""Ways that need documents."""
SHOWING = ("few_shot", "few_shot_nearest")
"""Ways that show examples."""
CLOSED_BOOK, ORACLE = "closed_book", "oracle"
ENDPOINTS = ("openai:", "anthropic:")
WRITING_OBJECTIVES = ("supervised", "dpo", "orpo", "kto", "custom")
"""Objectives that train a model which writes its answers, as every other arm does."""


@dataclass(frozen=True)
class PlannedArm:
    """An arm before it is measured.

    Attributes:
        name: Such as `rag`, or `rag:claude` with another model.
        strategy: The way, or a diagnostic.
        spec: The model, as `asking.open.open_model` takes it.
        why_not: Why it is not run; "" where it is.
    """

    name: str
    strategy: str
    spec: str
    why_not: str = ""

    @property
    def is_base(self) -> bool:
        """Whether the recipe's own base model answers."""
        return ":" not in self.name


def plan_arms(recipe: Recipe, settings: DecideSection) -> list[PlannedArm]:
    """Every arm of a recipe, the cheapest first; those that cannot be run among them.

    Args:
        recipe: The recipe.
        settings: Its `decide` section.
    """
    spec = recipe.base_model if isinstance(recipe.base_model, str) else "new"
    planned: list[PlannedArm] = []
    for strategy in ARMS:
        why_not = "not asked for in decide.arms" if strategy not in settings.arms else _why_not(strategy, recipe)
        planned.append(PlannedArm(strategy, strategy, spec, why_not))
        if strategy in TRAINED or strategy not in settings.arms:
            continue
        why_not = _why_no_documents(strategy, recipe)
        planned += [
            PlannedArm(f"{strategy}:{name}", strategy, other, why_not) for name, other in settings.models.items()
        ]
    return planned


def plan_diagnostics(recipe: Recipe) -> list[PlannedArm]:
    """What tells knowledge, behaviour and retrieval apart; both need documents, and neither can be chosen."""
    spec = recipe.base_model if isinstance(recipe.base_model, str) else "new"
    why_not = _why_no_base(recipe) or ("" if recipe.retrieval else "the recipe has no `retrieval` section")
    return [PlannedArm(name, name, spec, why_not) for name in (CLOSED_BOOK, ORACLE)]


def is_endpoint(spec: str) -> bool:
    """Whether a model answers behind an address."""
    return spec.startswith(ENDPOINTS)


def in_order(arms: Sequence[PlannedArm]) -> list[PlannedArm]:
    """Those that are to be run."""
    return [arm for arm in arms if not arm.why_not]


def _why_not(strategy: str, recipe: Recipe) -> str:
    if strategy == "rag_tuned":
        return _why_no_training(recipe) or _why_no_base(recipe) or _why_no_documents(strategy, recipe)
    if strategy == "tuned":
        return _why_no_training(recipe)
    return _why_no_base(recipe) or _why_no_documents(strategy, recipe)


def _why_no_documents(strategy: str, recipe: Recipe) -> str:
    return "the recipe has no `retrieval` section" if strategy in RETRIEVING and recipe.retrieval is None else ""


def _why_no_base(recipe: Recipe) -> str:
    is_new = isinstance(recipe.base_model, NewModel)
    return "base_model is made anew, so that it knows nothing before its training" if is_new else ""


def _why_no_training(recipe: Recipe) -> str:
    spec = recipe.base_model
    if isinstance(spec, str) and is_endpoint(spec):
        return f"{spec.partition('?')[0]} answers behind an address: it is not trained here"
    kind = recipe.training.objective.kind
    if kind not in WRITING_OBJECTIVES:
        return f"training.objective {kind} trains a model that writes no answers"
    return ""
