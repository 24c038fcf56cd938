"""The search itself: start trials, follow them, stop those that fall behind, keep every end, choose the next values."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.recipe.document import Value
from kivnun.recipe.dump import dump_recipe, plain_value, plain_values
from kivnun.recipe.load import DATA_FILES, located_recipe
from kivnun.runs import Run, open_run, write_atomic
from kivnun.search.advice import Advisor, all_combinations
from kivnun.search.plan import SearchPlan, base_value, say_refusal, with_values
from kivnun.search.process import PERCENT, TrialProcess, say_death, start_trial
from kivnun.search.trials import Trial, folder_of, read_trials, recipe_of, require_same_search, write_trial

Show = Callable[[str, Mapping[str, object]], None]

POLL_SECONDS = 0.05
CHECKPOINTS = "checkpoints"
ENDS_SEARCH = ("disk-full", "run-locked", "search-differs")
"""Errors of a trial that the others would meet as well; the trial is not counted as failed."""
STOPPED = "fell behind the other trials"


@dataclass
class Search:
    """A search under way."""

    plan: SearchPlan
    run: Run
    show: Show
    value: dict[str, Value]
    advisor: Advisor
    trials: dict[int, Trial] = field(default_factory=dict)
    active: dict[int, TrialProcess] = field(default_factory=dict)

    def log(self, event: str, fields: Mapping[str, object]) -> None:
        """Keep an event and show it."""
        self.run.log(event, fields)
        self.show(event, fields)


def run_search(plan: SearchPlan, search_dir: Path, *, show: Show = lambda _event, _fields: None) -> Search:
    """Run a search to its end, going on after the trials that its folder holds.

    Args:
        plan: The search.
        search_dir: Its folder.
        show: Takes every event, for progress displays.

    Raises:
        UserError: `search-differs`, `search-failed` where no trial has a value, or what all trials would meet.
        KeyboardInterrupt: After Ctrl-C, when the running trials have saved and ended.
    """
    recipe = located_recipe(plan.loaded)
    with open_run(search_dir) as run:
        require_same_search(search_dir, describe_search(plan))
        search = Search(plan, run, show, base_value(recipe, plan), Advisor(plan))
        waiting = _restore(search)
        _say_start(search)
        try:
            while True:
                waiting = _start(search, waiting)
                if not search.active:
                    break
                time.sleep(POLL_SECONDS)
                for process in list(search.active.values()):
                    _follow(search, process)
        except BaseException:
            _interrupt_all(search)
            raise
        require_a_value(list(search.trials.values()))
        search.log("search_finished", {"num_trials": len(search.trials)})
    return search


def describe_search(plan: SearchPlan) -> dict[str, object]:
    """What a search is: what its trials have in common and how they are chosen; not how many there are."""
    value = base_value(plan.loaded.recipe, plan)
    data = value.get("data")
    rows = {name: part for name, part in data.items() if name not in DATA_FILES} if isinstance(data, dict) else data
    settings = plan.settings
    return {
        "recipe": {**value, "data": rows},
        "space": {path: plain_values(span) for path, span in plan.space.items()},
        "metric": plan.metric,
        "sampler": settings.sampler,
        "pruner": [settings.pruner, settings.prune_after],
        "seed": settings.seed,
    }


def require_a_value(trials: list[Trial]) -> None:
    """Refuse a search without any trial that came to its end.

    Raises:
        UserError: `search-failed` with each trial's reason.
    """
    if any(trial.state == "complete" for trial in trials):
        return
    details = [f"trial {trial.number}: {trial.reason}" for trial in trials[:10]]
    hint = "mend what the trials say, or search other ranges; remove the folder of the search to begin again"
    raise UserError("search-failed", f"none of {len(trials)} trials came to its end", hint=hint, details=details)


def _say_start(search: Search) -> None:
    better = max if search.plan.higher_is_better else min
    values = [(t.value, t.number) for t in search.trials.values() if t.state == "complete" and t.value is not None]
    found = sum(trial.state != "running" for trial in search.trials.values())
    best = better(values, key=lambda pair: pair[0]) if values else None
    search.log("search_started", {"num_trials": search.plan.num_trials, "found": found, "best": best})


def _restore(search: Search) -> list[Trial]:
    """Take over the trials of an earlier command; those that have not ended are waiting."""
    for trial in read_trials(search.run.folder):
        search.trials[trial.number] = trial
        search.advisor.restore(trial)
    return [trial for trial in search.trials.values() if trial.state == "running"]


def _start(search: Search, waiting: list[Trial]) -> list[Trial]:
    """Start trials until all workers have one; what is left waits: for a worker, or for the trial that it equals."""
    waiting = list(waiting)
    while True:
        held = []
        for trial in waiting:
            twin = search.trials.get(trial.same_as or 0)
            if twin is not None and twin.state != "running":
                _copy(search, trial, twin)
            elif twin is not None or len(search.active) >= search.plan.settings.workers:
                held.append(trial)
            else:
                _launch(search, trial)
        if len(search.active) >= search.plan.settings.workers or not _has_more(search):
            return held
        waiting = [*held, _draw(search)]


def _has_more(search: Search) -> bool:
    if search.plan.tries_all:
        used = [trial.values for trial in search.trials.values()]
        return any(values not in used for values in all_combinations(search.plan))
    return len(search.trials) < search.plan.num_trials


def _draw(search: Search) -> Trial:
    """The next trial, kept before it starts."""
    used = [trial.values for trial in search.trials.values()]
    trial = search.advisor.draw(max(search.trials, default=0) + 1, used)
    same = next((other.number for other in search.trials.values() if other.values == trial.values), None)
    if same is not None:
        trial = replace(trial, same_as=search.trials[same].same_as or same)
    search.trials[trial.number] = trial
    write_trial(search.run.folder, trial)
    return trial


def _copy(search: Search, trial: Trial, twin: Trial) -> None:
    """An equal trial is not run again: its result would be the same."""
    own = {"number": trial.number, "drawn": trial.drawn, "values": trial.values}
    _finish(search, replace(twin, **own, same_as=twin.number, seconds=0.0, steps=0))


def _launch(search: Search, trial: Trial) -> None:
    folder = search.run.folder
    try:
        recipe = with_values(search.value, trial.values)
    except ValidationError as error:
        _finish(search, replace(trial, state="failed", reason=say_refusal(error, search.value, trial.values)))
        return
    write_atomic(recipe_of(folder, trial.number), dump_recipe(recipe, with_defaults=False))
    others = (folder_of(folder, number) for number in sorted(search.trials) if number != trial.number)
    first = next((other for other in others if (other / "dataset").is_dir()), None)
    settings = search.plan.settings
    search.log("trial_started", {"number": trial.number, "values": dict(trial.values)})
    search.active[trial.number] = start_trial(
        folder, trial.number, metric=search.plan.metric, first=first, workers=settings.workers
    )


def _follow(search: Search, running: TrialProcess) -> None:
    """Take what a trial's log has got, and its end."""
    has_ended = running.process.poll() is not None
    trial = _read_events(search, running)
    if trial.state == "pruned":
        running.interrupt()
        running.wait()
    elif not has_ended:
        return
    else:
        running.wait()
        trial = _judge(search, trial, running)
    del search.active[trial.number]
    _finish(search, replace(trial, seconds=trial.seconds + running.seconds))


def _read_events(search: Search, running: TrialProcess) -> Trial:
    """The trial with what its events add; `pruned` from the validation on where it fell behind."""
    trial, course = search.trials[running.number], running.course
    for event in running.tail.read():
        report = course.take(event)
        if event.get("event") in {"step", "validation"}:
            search.show("trial_step", {"number": trial.number, "course": course, "seconds": running.seconds})
        if report is None or any(percent == report[0] for percent, _ in trial.reports):
            continue
        trial = replace(trial, reports=(*trial.reports, report))
        # A trial that is at its end has nothing left to save by stopping.
        if search.advisor.should_stop(trial.number, *report) and report[0] < PERCENT:
            trial = replace(trial, state="pruned", reason=STOPPED)
            break
    # Of a pruned trial those steps count that led to the decision, however far its process ran on.
    steps = course.validated if trial.state == "pruned" else course.steps
    trial = replace(trial, steps=steps, num_steps=course.num_steps, num_rows=course.num_rows)
    search.trials[trial.number] = replace(trial, state="running")
    return replace(trial, value=course.best_value, best_step=course.best_step)


def _judge(search: Search, trial: Trial, running: TrialProcess) -> Trial:
    """What the end of a process means.

    Raises:
        UserError: What all trials would meet: no room on the disk, or an error in the data.
    """
    status, folder = running.process.returncode, folder_of(search.run.folder, trial.number)
    if status == 0 and trial.value is not None:
        return replace(trial, state="complete")
    error = running.error()
    # What happens before the rows are there does not depend on the values, unless the base model is one of them.
    is_common = not running.course.has_data and not any(path.startswith("base_model") for path in trial.values)
    if error is not None and (error.code in ENDS_SEARCH or is_common):
        raise error
    if status == 0:
        reason = f"no {search.plan.metric} of the validation rows was measured"
    else:
        reason = say_death(status, folder.with_suffix(".log")) if error is None else f"{error.code}: {error.problem}"
    return replace(trial, state="failed", value=None, best_step=None, reason=reason)


def _finish(search: Search, trial: Trial) -> None:
    """Keep the end of a trial; its checkpoints have no more use."""
    search.trials[trial.number] = trial
    write_trial(search.run.folder, trial)
    search.advisor.finish(trial)
    shutil.rmtree(folder_of(search.run.folder, trial.number) / CHECKPOINTS, ignore_errors=True)
    told = {name: plain_value(part) for name, part in vars(trial).items() if name not in {"drawn", "reports"}}
    search.log("trial_finished", told)


def _interrupt_all(search: Search) -> None:
    """Let the running trials save and end; a second Ctrl-C does not wait for them."""
    for running in search.active.values():
        running.interrupt()
    try:
        for running in search.active.values():
            running.wait()
    except KeyboardInterrupt:
        for running in search.active.values():
            running.interrupt()
            running.wait()
    for number, running in search.active.items():
        trial = search.trials[number]
        # Reports are read again from the trial's own log, so that they count once.
        write_trial(search.run.folder, replace(trial, seconds=trial.seconds + running.seconds, reports=()))
