"""What came of a search: trials by rank, the best recipe, and what its value does and does not say."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kivnun.recipe.dump import dump_recipe, dump_value
from kivnun.recipe.load import located_recipe
from kivnun.runs import write_atomic
from kivnun.search.loop import Search
from kivnun.search.page import render_page
from kivnun.search.plan import SearchPlan, clean_value, with_values
from kivnun.search.trials import Trial, Values, folder_of

BEST_NAME, RESULTS_NAME, PAGE_NAME = "best.yaml", "results.json", "search.html"
SHARES = ("accuracy", "exact_match", "recall_at_1", "reward_accuracy")
"""Metrics that are a share of rows, whose noise follows from their number."""


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        plan: The search.
        folder: Its folder.
        trials: By rank: those with a value first, the best on top; then stopped and failed ones.
        importance: How much of the differences each field explains, where that can be told.
    """

    plan: SearchPlan
    folder: Path
    trials: Sequence[Trial]
    importance: Mapping[str, float]

    @property
    def best(self) -> Trial:
        """The trial with the best value."""
        return self.trials[0]

    @property
    def best_recipe(self) -> Path:
        """The recipe with the best values."""
        return self.folder / BEST_NAME

    @property
    def page(self) -> Path:
        """The plots."""
        return self.folder / PAGE_NAME

    def to_json(self) -> dict[str, object]:
        """All of it as plain values."""
        return {
            "metric": self.plan.metric,
            "direction": "maximize" if self.plan.higher_is_better else "minimize",
            "best": self.best.number,
            "best_recipe": str(self.best_recipe),
            "page": str(self.page),
            "importance": dict(self.importance),
            "caveats": say_caveats(self),
            "trials": [
                {name: part for name, part in asdict(trial).items() if name != "drawn"} for trial in self.trials
            ],
        }


def summarise(search: Search) -> SearchResult:
    """Rank the trials of a finished search and write best recipe, results and plots into its folder."""
    ranked = rank(list(search.trials.values()), higher_is_better=search.plan.higher_is_better)
    result = SearchResult(search.plan, search.run.folder, ranked, search.advisor.importance())
    write_atomic(result.best_recipe, say_best_recipe(result))
    text = json.dumps(result.to_json(), ensure_ascii=False, indent=2)
    write_atomic(result.folder / RESULTS_NAME, text + "\n")
    page = render_page(search.plan, ranked, result.importance, [*say_facts(result), *say_caveats(result)])
    write_atomic(result.page, page)
    return result


def rank(trials: Sequence[Trial], *, higher_is_better: bool) -> list[Trial]:
    """Complete trials by value, then stopped ones by value, then failed ones; equal ones by number."""
    order = {"complete": 0, "pruned": 1, "failed": 2, "running": 3}

    def place(trial: Trial) -> tuple[int, float, int]:
        value = math.inf if trial.value is None else -trial.value if higher_is_better else trial.value
        return order[trial.state], value, trial.number

    return sorted(trials, key=place)


def say_best_recipe(result: SearchResult) -> str:
    """The text of `best.yaml`: the whole recipe, evaluation and export too, with the best values."""
    best, plan = result.best, result.plan
    recipe = located_recipe(plan.loaded).model_copy(update={"search": None})
    value = clean_value(recipe, plan)
    direction = "higher" if plan.higher_is_better else "lower"
    measured = f"validation {plan.metric} {best.value:.5g} at step {best.best_step}"
    lines = [
        f"# The best of {count_trials(result.trials)}, found by `kivnun search {plan.loaded.path}`:",
        f"# trial {best.number}, {measured} ({direction} is better).",
        *(f"# chosen: {path}: {dump_value(each)}" for path, each in best.values.items()),
        "# The best of several validation values is optimistic; the test rows, which the search has not scored, tell.",
    ]
    return "\n".join(lines) + "\n" + dump_recipe(with_values(value, best.values), with_defaults=False)


def count_trials(trials: Sequence[Trial]) -> str:
    """How many trials there are, in words."""
    return f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"


def say_facts(result: SearchResult) -> list[str]:
    """How many trials ended in which way."""
    ended = {"complete": "came to their end", "pruned": "were stopped early", "failed": "failed"}
    counts = {state: sum(trial.state == state for trial in result.trials) for state in ended}
    parts = [f"{count} {ended[state]}" for state, count in counts.items() if count]
    same = sum(trial.same_as is not None for trial in result.trials)
    repeated = f"; {same} had the values of an earlier one and took its result" if same else ""
    return [f"{count_trials(result.trials)}: {', '.join(parts)}{repeated}"]


def say_caveats(result: SearchResult) -> list[str]:
    """What the best value does not say: it is a maximum over noise, and the runner-up may be as good."""
    plan, best = result.plan, result.best
    complete = [trial for trial in result.trials if trial.state == "complete" and trial.same_as is None]
    said = [
        f"the best of {len(complete)} validation {plan.metric} values is optimistic: it is chosen by the rows that "
        "it is measured on; the test rows were not scored, so `kivnun run` with the best recipe tells what it is worth"
    ]
    if len(complete) < 2 or best.value is None or complete[1].value is None:
        return said
    gap = abs(best.value - complete[1].value)
    spread = f"trial {best.number} and the runner-up, trial {complete[1].number}, differ by {gap:.3g}"
    noise = say_noise(plan, best)
    if noise is None:
        how = "train the best recipe with other seeds (`--set training.seed=1`) to see how much chance alone makes"
        return [*said, f"{spread}; how much of that is noise is not known: {how}"]
    size, words = noise
    verdict = "within the noise: they are not told apart" if gap <= size else "more than the noise"
    return [*said, f"{spread}, {verdict} ({words})"]


def say_noise(plan: SearchPlan, best: Trial) -> tuple[float, str] | None:
    """The standard error of the difference of two shares of the same rows, at most; None where it is not known."""
    if plan.metric not in SHARES or best.value is None or not best.num_rows:
        return None
    training = plan.loaded.recipe.training
    is_generated = plan.metric in training.validation_metrics
    rows = min(training.validation_rows, best.num_rows) if is_generated else best.num_rows
    error = math.sqrt(2 * best.value * (1 - best.value) / rows)
    return error, f"one standard error of a difference over {rows} validation rows is {error:.3g}"


def say_values(values: Values) -> str:
    """What a trial sets, on one line: the last parts of the fields' names."""
    return ", ".join(f"{path.rpartition('.')[2]} {say_scalar(each)}" for path, each in values.items())


def say_scalar(value: object) -> str:
    """A value as in a recipe."""
    return f"{value:.4g}" if isinstance(value, float) else dump_value(value)


def model_of(result: SearchResult) -> Path:
    """Where the best trial's model lies."""
    best = result.best
    return folder_of(result.folder, best.same_as or best.number) / "model"
