"""A search before its first trial: recipe and space read, every end of every range tried on the schema, all refusals.

Each trial is the recipe with other values, without evaluation and export: only training and its validation rows. The
test rows are never scored, so that the search cannot fit itself to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice, product
from operator import mul
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import Value
from kivnun.recipe.dump import dump_value, plain_values
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.override import Override, apply_overrides
from kivnun.recipe.rules import why_not_measured
from kivnun.recipe.schema import Recipe
from kivnun.recipe.search import Choice, FloatRange, IntRange, SearchSection
from kivnun.search.fields import RIVALS, find_field, suggest_field, why_not_searched

Scalar = bool | int | float | str
Span = FloatRange | IntRange | Choice

MAX_COMBINATIONS = 512
HINT = "`kivnun recipe explain training` and `kivnun recipe explain method` list what can be searched"


@dataclass(frozen=True)
class SearchPlan:
    """A search that can start.

    Attributes:
        loaded: The recipe as it was loaded.
        settings: The `search` section.
        space: The ranges by dotted field, in the order in which they were written.
        metric: What is made best.
        notes: What was changed in the recipe for the search, to be said aloud.
    """

    loaded: LoadedRecipe
    settings: SearchSection
    space: Mapping[str, Span]
    metric: str
    notes: Sequence[str]

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric: of all but the loss, more is better."""
        return self.metric != "loss"

    @property
    def num_combinations(self) -> int | None:
        """How many different trials there are; None where a range of floats makes them uncountable."""
        counts = [count_values(span) for span in self.space.values()]
        return None if None in counts else reduce(mul, cast("list[int]", counts), 1)

    @property
    def tries_all(self) -> bool:
        """Whether each combination is tried once, since there are no more of them than trials."""
        combinations = self.num_combinations
        return combinations is not None and combinations <= self.settings.num_trials

    @property
    def num_trials(self) -> int:
        """Trials of the search: those asked for, or all that there are."""
        combinations = self.num_combinations
        return combinations if combinations is not None and self.tries_all else self.settings.num_trials


def plan_search(loaded: LoadedRecipe) -> SearchPlan:
    """Check a recipe's `search` section against the rest of the recipe.

    Raises:
        UserError: `search-invalid` with every problem.
    """
    settings = loaded.recipe.search
    if settings is None:
        hint = "write one, or name a file of ranges with --space; `kivnun recipe explain search` lists its fields"
        raise UserError("search-invalid", f"{loaded.path} has no search section", hint=hint)
    metric = settings.metric or loaded.recipe.training.best_metric
    problems = [*_check_metric(loaded, metric), *_check_rows(loaded.recipe)]
    space, unknown = _resolve(settings, metric)
    problems += unknown
    _refuse(loaded.path, problems)
    plan = SearchPlan(loaded, settings, space, metric, tuple(_left_out(loaded.recipe, space)))
    _refuse(loaded.path, _check_values(plan))
    return plan


def base_value(recipe: Recipe, plan: SearchPlan) -> dict[str, Value]:
    """What every trial has in common: the recipe without evaluation, export and search, measured by the metric."""
    return clean_value(recipe.model_copy(update={"evaluation": None, "optimization": None}), plan)


def clean_value(recipe: Recipe, plan: SearchPlan) -> dict[str, Value]:
    """A recipe without its search, with the metric that decides, without what a searched field stands in place of."""
    value = cast("dict[str, Value]", plain_values(recipe.model_copy(update={"search": None}), with_defaults=False))
    training = {**cast("dict[str, Value]", value.get("training", {})), "best_metric": plan.metric}
    # Where a kind decides which fields there are, it is written even if it is the default.
    training["objective"] = cast("Value", plain_values(recipe.training.objective, with_defaults=False))
    for path in plan.space:
        rival = RIVALS.get(path)
        if rival is not None and rival not in plan.space:
            training.pop(rival.rpartition(".")[2], None)
    method = cast("Value", plain_values(recipe.method, with_defaults=False))
    return {**value, "method": method, "training": training}


def with_values(value: dict[str, Value], values: Mapping[str, Scalar]) -> Recipe:
    """The recipe of a trial.

    Raises:
        ValidationError: When the schema refuses these values together.
    """
    chosen = [Override(path, tuple(path.split(".")), each) for path, each in values.items()]
    return Recipe.model_validate(apply_overrides(value, chosen))


def count_values(span: Span) -> int | None:
    """How many values a range has; None for floats."""
    if isinstance(span, Choice):
        return len(span.values)
    return (span.high - span.low) // span.step + 1 if isinstance(span, IntRange) else None


def list_values(span: Choice | IntRange) -> Sequence[Scalar]:
    """All values of a range that can be counted."""
    return span.values if isinstance(span, Choice) else range(span.low, span.high + 1, span.step)


def say_range(span: Span) -> str:
    """A range in words."""
    if isinstance(span, Choice):
        return f"one of {', '.join(map(dump_value, span.values))}"
    step = f" in steps of {span.step}" if isinstance(span, IntRange) and span.step > 1 else ""
    return f"{span.low:g} to {span.high:g}{step}{', logarithm drawn evenly' if span.log else ''}"


def _resolve(settings: SearchSection, metric: str) -> tuple[dict[str, Span], list[str]]:
    """The space by dotted fields, and what is wrong with its names."""
    space: dict[str, Span] = {}
    named: dict[str, str] = {}
    problems: list[str] = []
    for name, span in settings.space.items():
        path = find_field(name)
        if path is None:
            problems.append(f"search.space.{name}: a recipe has no such field{suggest_field(name)}")
            continue
        reason = why_not_searched(path, metric=metric)
        if reason is not None:
            problems.append(f"search.space.{name}: {path} {reason}")
        elif path in named:
            problems.append(f"search.space.{name}: is {path}, which {named[path]} is as well; keep one")
        space[path] = span
        named[path] = name
    return space, problems


def _check_metric(loaded: LoadedRecipe, metric: str) -> list[str]:
    """The metric must be measured while training, and decide there too which step is kept."""
    training = loaded.recipe.training
    said = loaded.provenance.get("training.best_metric", "default") != "default"
    if said and metric != training.best_metric:
        return [f"search.metric: {metric} differs from training.best_metric ({training.best_metric}); delete one"]
    reason = why_not_measured(training, metric)
    return [] if reason is None else [f"search.metric: {reason}"]


def _check_rows(recipe: Recipe) -> list[str]:
    if recipe.data.validation is None and recipe.data.split.validation == 0:
        return ["data.split.validation: is 0, but trials are compared on validation rows"]
    return []


def _left_out(recipe: Recipe, space: Mapping[str, Span]) -> list[str]:
    """Values of the recipe that a searched field stands in place of."""
    notes = []
    for path in space:
        rival = RIVALS.get(path)
        if rival is None or rival in space:
            continue
        name = rival.rpartition(".")[2]
        given = dict(recipe.training)[name]
        if given != type(recipe.training).model_fields[name].default:
            notes.append(f"{rival} = {given} is left out, since {path} is searched in its place")
    return notes


def _check_values(plan: SearchPlan) -> list[str]:
    """Each end and each choice must be accepted beside the recipe's own values, or beside some of the others searched.

    Raises:
        UserError: `search-invalid` when the recipe is refused as it is.
    """
    value = base_value(plan.loaded.recipe, plan)
    ends = {path: _ends(span) for path, span in plan.space.items()}
    problems: dict[tuple[str, str], list[str]] = {}
    for path, samples in ends.items():
        for sample in samples:
            complaint = _complaint(value, {path: sample})
            if complaint is not None and not _fits_somewhere(value, {**ends, path: (sample,)}):
                # The same against several values is said once.
                problems.setdefault((path, complaint.rpartition(" (got")[0] or complaint), []).append(
                    dump_value(sample)
                )
    return [f"search.space: {path} = {', '.join(given)}: {text}" for (path, text), given in problems.items()]


def _fits_somewhere(value: dict[str, Value], ends: Mapping[str, Sequence[Scalar]]) -> bool:
    combinations = islice(product(*ends.values()), MAX_COMBINATIONS)
    return any(_complaint(value, dict(zip(ends, chosen, strict=True))) is None for chosen in combinations)


def _complaint(value: dict[str, Value], values: Mapping[str, Scalar]) -> str | None:
    try:
        with_values(value, values)
    except ValidationError as error:
        return say_refusal(error, value, values)
    return None


def say_refusal(error: ValidationError, value: dict[str, Value], values: Mapping[str, Scalar]) -> str:
    """What the schema has against some values, on one line."""
    chosen = [Override(path, tuple(path.split(".")), each) for path, each in values.items()]
    described = describe_errors(error, apply_overrides(value, chosen))
    texts = [(".".join(map(str, path)), message) for path, message in described]
    return "; ".join(message if path in values else f"{path}: {message}" for path, message in texts)


def _ends(span: Span) -> tuple[Scalar, ...]:
    return span.values if isinstance(span, Choice) else (span.low, span.high)


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise UserError("search-invalid", f"{count} in the search of {path}", hint=HINT, details=problems)
