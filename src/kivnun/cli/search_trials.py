"""The search for values of a recipe: its plan, its progress and its table."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.search.plan import SearchPlan
    from kivnun.search.summary import SearchResult
    from kivnun.search.trials import Trial

SAY_EVERY_SECONDS = 10.0


def search_values(
    recipe: Path,
    *,
    space: Path | None,
    trials: int | None,
    out: Path | None,
    overrides: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Search the values of a recipe that validate best; the same words go on after an interruption."""
    from kivnun.recipe.load import require_data_files
    from kivnun.runs import default_run_dir
    from kivnun.search.plan import plan_search
    from kivnun.search.space_file import load_search

    loaded = load_search(recipe, overrides, space=space, num_trials=trials)
    require_data_files(loaded)
    plan = plan_search(loaded)
    default = default_run_dir(recipe)
    folder = out or default.with_name(f"{default.name}-search")
    lines = _say_plan(plan, folder)
    if dry_run:
        typer.echo("\n".join(lines))
        return
    tell("\n".join(lines))
    result = _run(plan, folder)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    _print(result)


def _run(plan: "SearchPlan", folder: Path) -> "SearchResult":
    from kivnun.search.loop import run_search
    from kivnun.search.summary import summarise

    try:
        found = run_search(plan, folder, show=Progress(plan).show)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        tell(f"interrupted; the same command goes on from here ({folder})")
        raise
    return summarise(found)


def _say_plan(plan: "SearchPlan", folder: Path) -> list[str]:
    """What is searched and how, one line each."""
    from kivnun.search.plan import say_range

    settings = plan.settings
    direction = "highest" if plan.higher_is_better else "lowest"
    lines = [f"searching the {direction} {plan.metric} of the validation rows; the test rows are never scored"]
    lines += [f"  {path}: {say_range(span)}" for path, span in plan.space.items()]
    combinations = plan.num_combinations
    if plan.tries_all:
        fewer = (
            f", fewer than the {settings.num_trials} trials asked for" if plan.num_trials < settings.num_trials else ""
        )
        lines.append(f"  these are {combinations} combinations{fewer}: each is tried once, in the order of the seed")
        if settings.sampler != type(settings).model_fields["sampler"].default:
            lines.append(f"  the sampler {settings.sampler} is not asked")
    else:
        lines.append(f"  {plan.num_trials} trials, chosen by {settings.sampler}, seed {settings.seed}")
    pruner = {"median": f"those below the median, after {settings.prune_after} finished ones", "none": "none"}
    lines.append(f"  stopped early: {pruner.get(settings.pruner, 'by successive halving')}")
    lines += [f"  {note}" for note in plan.notes]
    lines.append(f"  {settings.workers} at a time, in {folder}")
    return lines


class Progress:
    """Says on standard error what each trial sets, how it goes, what came of it, and how much time is left.

    Args:
        plan: The search.
    """

    def __init__(self, plan: "SearchPlan") -> None:
        self._plan = plan
        self._said_at = time.monotonic()
        self._ended: dict[int, float] = {}
        self._num_trials = plan.num_trials
        self._best: tuple[float, int] | None = None

    def show(self, event: str, fields: Mapping[str, Any]) -> None:
        """Show one event."""
        from kivnun.search.summary import say_values

        if event == "search_started":
            self._num_trials = max(int(fields["num_trials"]), int(fields["found"]))
            self._best = fields["best"]
            if fields["found"]:
                tell(f"going on: {fields['found']} of {self._num_trials} trials are there and are not repeated")
        elif event == "trial_started":
            tell(f"trial {fields['number']}/{self._num_trials}: {say_values(fields['values'])}")
        elif event == "trial_step":
            self._say_step(fields)
        elif event == "trial_finished":
            self._say_end(fields)

    def _say_step(self, fields: Mapping[str, Any]) -> None:
        from kivnun.cli.progress import say_seconds

        course, now = fields["course"], time.monotonic()
        if now - self._said_at < SAY_EVERY_SECONDS or not course.steps or not course.num_steps:
            return
        self._said_at = now
        left = say_seconds(course.step_seconds * (course.num_steps - course.steps))
        loss = "" if course.loss is None else f", loss {course.loss:.4f}"
        tell(f"  trial {fields['number']}: step {course.steps}/{course.num_steps}{loss}, about {left} left of it")

    def _say_end(self, fields: Mapping[str, Any]) -> None:
        number, value = int(fields["number"]), fields["value"]
        if fields["state"] == "complete":
            better = self._best is None or (value > self._best[0]) == self._plan.higher_is_better
            self._best = (value, number) if better and (self._best is None or value != self._best[0]) else self._best
        if fields["seconds"]:
            self._ended[number] = float(fields["seconds"])
        said = "" if value is None else f": {self._plan.metric} {value:.5g} at step {fields['best_step']}"
        same = f", as trial {fields['same_as']}" if fields["same_as"] else ""
        reason = f": {fields['reason']}" if fields["reason"] else ""
        best = "" if self._best is None else f"; best so far {self._best[0]:.5g}, trial {self._best[1]}"
        tell(f"  trial {number} {fields['state']}{same}{said}{reason}{best}{self._say_left(number)}")

    def _say_left(self, number: int) -> str:
        from kivnun.cli.progress import say_seconds

        rest = self._num_trials - number
        if not self._ended or rest <= 0:
            return ""
        mean = sum(self._ended.values()) / len(self._ended)
        return f"; about {say_seconds(mean * rest / self._plan.settings.workers)} left"


def _print(result: "SearchResult") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kivnun.search.summary import model_of, say_caveats, say_facts, say_scalar

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    plan = result.plan
    table = Table(title="Trials, best first", title_justify="left")
    names = ("trial", *plan.space, plan.metric, "at step", "steps", "seconds")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("state", overflow="fold")
    for trial in result.trials:
        values = [say_scalar(trial.values[path]) for path in plan.space]
        table.add_row(*(Text(cell) for cell in (str(trial.number), *values, *_end_cells(trial))))
    console.print(table)
    for line in (*say_facts(result), *say_caveats(result)):
        console.print(line, markup=False)
    if result.importance:
        from kivnun.search.advice import say_importance

        console.print(f"what mattered: {say_importance(result.importance)}", markup=False)
    console.print(f"best recipe: {result.best_recipe} (its model: {model_of(result)})", markup=False, soft_wrap=True)
    console.print(f"plots: {result.page}", markup=False, soft_wrap=True)
    console.print(f"go on: kivnun run {result.best_recipe}", markup=False, soft_wrap=True)


def _end_cells(trial: "Trial") -> tuple[str, ...]:
    value = "-" if trial.value is None else f"{trial.value:.5g}"
    step = "-" if trial.best_step is None else str(trial.best_step)
    same = f", as trial {trial.same_as}" if trial.same_as else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return value, step, str(trial.steps), f"{trial.seconds:.1f}", f"{trial.state}{same}{reason}"
