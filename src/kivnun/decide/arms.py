"""Which arms there are, from the cheapest to the dearest, and which of them cannot be run, with the reason."""

from dataclasses import dataclass

from kivnun.recipe.decide import ARMS, DecideSection
from kivnun.recipe.schema import Recipe

TRAINED = ("tuned", "rag_tuned")
RETRIEVING = ("rag", "rag_tuned")
"""Ways that need documents."""
SHOWING = ("few_shot", "few_shot_nearest")
"""Ways that show examples."""
CLOSED_BOOK, ORACLE = "closed_book", "oracle"
ENDPOINTS = ("openai:", "anthropic:")
NO_DOCUMENTS = "the recipe has no `retrieval` section"


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
    spec = base_spec(recipe)
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
    why_not = "" if recipe.retrieval else NO_DOCUMENTS
    return [PlannedArm(name, name, base_spec(recipe), why_not) for name in (CLOSED_BOOK, ORACLE)]


def base_spec(recipe: Recipe) -> str:
    """The base model's name; a recipe with a `decide` section has no other kind."""
    return str(recipe.base_model)


def is_endpoint(spec: str) -> bool:
    """Whether a model answers behind an address."""
    return spec.startswith(ENDPOINTS)


def _why_not(strategy: str, recipe: Recipe) -> str:
    spec = base_spec(recipe)
    if strategy in TRAINED and is_endpoint(spec):
        return f"{spec.partition('?')[0]} answers behind an address: it is not trained here"
    return _why_no_documents(strategy, recipe)


def _why_no_documents(strategy: str, recipe: Recipe) -> str:
    return NO_DOCUMENTS if strategy in RETRIEVING and recipe.retrieval is None else ""
