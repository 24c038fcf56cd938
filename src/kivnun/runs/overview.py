"""Runs in short: what each is, where it stands and how good it is, read from its events, lock and manifests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from kivnun.errors import UserError
from kivnun.runs.ending import FAILED, FINISHED, is_held
from kivnun.runs.events import read_events
from kivnun.runs.follow import RunStory, number, read_story, whole
from kivnun.runs.lock import LOCK_NAME, read_lock
from kivnun.runs.manifest import read_manifest
from kivnun.runs.stage import content_hash
from kivnun.runs.store import EVENTS_NAME, is_run

State = Literal["running", "finished", "failed", "interrupted", "killed", "new", "unreadable"]
"""`killed`: no process works in it, and its log has no end. `new`: nothing happened in it yet."""

EVALUATION, SCORES_NAME = "evaluation", "report.json"
PREFERENCE = "preference_accuracy"
"""The metric that stands for a run where it was evaluated; else the first one, which is the main one of the task."""
_TUNED = "tuned"


@dataclass(frozen=True)
class MetricValue:
    """An evaluated metric with its 95 % interval."""

    name: str
    """Its name, such as `accuracy`."""
    value: float
    """Its value on the test rows."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True)
class RunOverview:
    """One run in short."""

    name: str
    """Name of the folder."""
    folder: str
    """Path of the folder."""
    state: State
    """Whether it runs, or how it ended."""
    where: str
    """Where it stands, such as `model, step 40 of 80`."""
    problem: str | None = None
    """Why it failed or cannot be read."""
    base_model: str | None = None
    """The base model."""
    method: str | None = None
    """Kind of the method."""
    objective: str | None = None
    """Kind of the objective."""
    step: int = 0
    """The last step that was done."""
    num_steps: int = 0
    """Steps of the training."""
    best_step: int | None = None
    """The step with the lowest validation loss."""
    best_validation_loss: float | None = None
    """That loss."""
    metrics: tuple[MetricValue, ...] = ()
    """Metrics of the tuned model on the test rows, if the evaluation belongs to the latest training."""
    trained_parameters: int | None = None
    """Number of weights that are trained."""
    tokens_per_second: float | None = None
    """Speed of the training."""
    peak_share: float | None = None
    """Share of the machine's measured peak, at the last sample."""
    peak_memory_bytes: int | None = None
    """Most memory that the process held, at the last sample; on a GPU, of the GPU."""
    started_at: str | None = None
    """Time of the first event."""
    last_at: str | None = None
    """Time of the last event."""

    @property
    def metric(self) -> MetricValue | None:
        """The metric that stands for the run."""
        by_name = {metric.name: metric for metric in self.metrics}
        return by_name.get(PREFERENCE, next(iter(self.metrics), None))

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {**asdict(self), "metric": None if self.metric is None else asdict(self.metric)}


def is_search(folder: Path) -> bool:
    """Whether a folder is that of `kivnun search`, whose trials are the runs."""
    return (folder / "trials").is_dir()


def list_searches(root: Path) -> list[str]:
    """Names of the searches in a folder."""
    return [name_run(folder) for folder in sorted(root.glob("*")) if is_run(folder) and is_search(folder)]


def list_runs(root: Path) -> list[RunOverview]:
    """Every run in a folder, those with the latest events first; a run that cannot be read is there as `unreadable`."""
    folders = [folder for folder in sorted(root.glob("*")) if is_run(folder) and not is_search(folder)]
    found = [read_overview(folder) for folder in folders]
    return sorted(found, key=lambda run: run.last_at or "", reverse=True)


def read_overview(folder: Path) -> RunOverview:
    """One run in short; one whose files cannot be read says so in `state` and `problem`."""
    try:
        # The lock is looked at first: a run that ends in between has its last event in the log by then.
        is_running = is_held(folder)
        story = read_story(read_events(folder / EVENTS_NAME))
        lock = read_lock(folder) if (folder / LOCK_NAME).exists() else None
        metrics = read_metrics(folder) if story.is_trained or not story.key else ()
    except UserError as error:
        return _unreadable(folder, error.problem)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return _unreadable(folder, f"{type(error).__name__}: {error}")
    best_step, best_loss = story.best or (None, None)
    recipe: Mapping[str, object] = {} if lock is None else lock.recipe
    return RunOverview(
        name=name_run(folder),
        folder=str(folder),
        state=tell_state(story, is_running=is_running),
        where=tell_where(story),
        problem=_tell_problem(story),
        base_model=None if lock is None else lock.base_model.name,
        method=_kind(recipe.get("method")),
        objective=_kind(cast("Mapping[str, object]", recipe.get("training") or {}).get("objective")),
        step=story.step,
        num_steps=story.num_steps,
        best_step=best_step,
        best_validation_loss=best_loss,
        metrics=tuple(metrics),
        trained_parameters=whole(story.training.get("trained_parameters")) or None,
        tokens_per_second=story.tokens_per_second,
        peak_share=number(story.usage.get("peak_share")),
        peak_memory_bytes=peak_memory(story.usage),
        started_at=story.started_at,
        last_at=story.last_at,
    )


def tell_state(story: RunStory, *, is_running: bool) -> State:
    """Whether a run runs, or how its last attempt ended."""
    if is_running:
        return "running"
    if story.last_at is None:
        return "new"
    if story.ending is None:
        return "killed"
    kind = story.ending.get("event")
    return "finished" if kind == FINISHED else "failed" if kind == FAILED else "interrupted"


def tell_where(story: RunStory) -> str:
    """The stage and step that a run has come to; nothing for one that came to its end."""
    if story.stage is None or (story.ending or {}).get("event") == FINISHED:
        return ""
    if story.stage == "model" and story.num_steps:
        return f"training, step {story.step} of {story.num_steps}"
    return story.stage


def read_metrics(folder: Path) -> list[MetricValue]:
    """The tuned model's metrics on the test rows, if the evaluation is that of the model that is there now.

    Raises:
        UserError: `artifact-damaged` where a manifest cannot be read.
        ValueError: Where the scores are no JSON.
    """
    stage = folder / EVALUATION
    path = stage / SCORES_NAME
    if not path.is_file():
        return []
    parents = read_manifest(stage).parents
    if any(not (folder / name).is_dir() or content_hash(folder / name) != kept for name, kept in parents.items()):
        return []
    report = cast("Mapping[str, Sequence[Mapping[str, object]]]", json.loads(path.read_text("utf-8")))
    tuned = next((scores for scores in report["scores"] if scores["name"] == _TUNED), None)
    found = cast("Mapping[str, Mapping[str, object]]", tuned["metrics"] if tuned else {})
    return [_metric(name, values) for name, values in found.items()]


def peak_memory(usage: Mapping[str, object]) -> int | None:
    """The memory of a `usage` event that runs out first."""
    return whole(usage.get("gpu_peak_memory_bytes")) or whole(usage.get("peak_memory_bytes")) or None


def name_run(folder: Path) -> str:
    """The name of a run for people; `.` has the name of the folder that it is."""
    return folder.name or folder.resolve().name


def seconds_since(moment: str | None) -> float | None:
    """Seconds from a time of an event until now."""
    return None if moment is None else (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _metric(name: str, values: Mapping[str, object]) -> MetricValue:
    value, low, high = (number(values[part]) for part in ("value", "low", "high"))
    if value is None or low is None or high is None:
        raise ValueError(f"the metric {name} of the evaluation is not a number")
    return MetricValue(name, value, low, high)


def _unreadable(folder: Path, problem: str) -> RunOverview:
    return RunOverview(name=name_run(folder), folder=str(folder), state="unreadable", where="", problem=problem)


def _tell_problem(story: RunStory) -> str | None:
    if story.ending is None or story.ending.get("event") != FAILED:
        return None
    return f"{story.ending.get('problem')} ({story.ending.get('code')})"


def _kind(section: object) -> str | None:
    """The kind of a variant in the recipe that a run resolved to."""
    kind = cast("dict[str, object]", section).get("kind") if isinstance(section, dict) else None
    return kind if isinstance(kind, str) else None
