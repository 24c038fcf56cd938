"""The trackers that a recipe names, fed by the run's events; one that fails is said aloud once and then is off."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

from kivnun.errors import UserError
from kivnun.recipe.dump import plain_value
from kivnun.recipe.fields import walk_fields
from kivnun.recipe.schema import Recipe
from kivnun.runs import read_events
from kivnun.runs.store import EVENTS_NAME
from kivnun.tracking.points import Point, Subject, Training, read_point, read_training

Log = Callable[[str, Mapping[str, object]], None]

EXTRAS = ("mlflow", "wandb")
"""Trackers whose package is an extra of the same name."""


class Tracker(Protocol):
    """A place that numbers go to."""

    def start(self, training: Training) -> None:
        """A training begins or goes on: let the place hold what was kept, and nothing after it."""
        ...

    def log(self, point: Point) -> None:
        """Take what was measured at a step."""
        ...

    def finish(self) -> None:
        """Let go of everything; the training ended, or this process does."""
        ...


TRACKERS: Mapping[str, tuple[str, str]] = {
    "tensorboard": ("kivnun.tracking.tensorboard", "TensorBoardTracker"),
    "csv": ("kivnun.tracking.table", "CsvTracker"),
    "mlflow": ("kivnun.tracking.mlflow_server", "MlflowTracker"),
    "wandb": ("kivnun.tracking.weights_and_biases", "WandbTracker"),
}
"""Module and class of every tracker; loaded only where a recipe names it."""


class Trackers:
    """All trackers of a run as one sink of events.

    Args:
        trackers: The trackers by name.
        folder: The run folder, whose log says what earlier attempts measured.
        say: Takes the event `tracker_failed`.
    """

    def __init__(self, trackers: Mapping[str, Tracker], folder: Path, say: Log) -> None:
        self._trackers = dict(trackers)
        self._folder = folder
        self._say = say
        self._started: dict[str, Tracker] = {}

    def track(self, event: str, fields: Mapping[str, object]) -> None:
        """Take an event that stands in the run's log already."""
        if not self._trackers:
            return
        if event == "fit_started":
            self._start(str(fields["key"]), int(cast("int", fields["from_step"])))
            return
        point = read_point(event, fields)
        if point is None:
            return
        for name, tracker in list(self._started.items()):
            self._try(name, lambda tracker=tracker: tracker.log(point))

    def close(self) -> None:
        """Let every tracker end well."""
        for name, tracker in list(self._started.items()):
            self._try(name, tracker.finish)
        self._started.clear()

    def __enter__(self) -> Self:
        """The sink itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let every tracker end well."""
        self.close()

    def _start(self, key: str, from_step: int) -> None:
        training = read_training(read_events(self._folder / EVENTS_NAME), key, from_step)
        for name, tracker in list(self._trackers.items()):
            self._started[name] = tracker
            self._try(name, lambda tracker=tracker: tracker.start(training))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        # Whatever breaks in a tracker, and a foreign one may raise anything, is worth less than the training.
        except Exception as error:  # noqa: BLE001
            self._trackers.pop(name, None)
            failed = self._started.pop(name, None)
            if failed is not None:
                with suppress(Exception):
                    failed.finish()
            self._say("tracker_failed", {"tracker": name, "problem": f"{type(error).__name__}: {error}"})


def open_trackers(recipe: Recipe, folder: Path, say: Log) -> Trackers:
    """The trackers that a recipe names; nothing is written before a training starts.

    Args:
        recipe: The recipe, whose values the trackers may keep.
        folder: The run folder.
        say: Takes the event `tracker_failed`.

    Raises:
        UserError: `dependency-missing` where the package of one is not installed.
    """
    names = dict.fromkeys(recipe.training.report_to)
    for name in names:
        if name in EXTRAS and find_spec(name) is None:
            raise UserError(
                "dependency-missing",
                f"training.report_to names {name}, whose package is not installed",
                hint=f"pip install 'kivnun[{name}]', or take {name} out of training.report_to",
            )
    settings = {".".join(path): plain_value(value) for path, value in walk_fields(recipe)}
    subject = Subject(folder, folder.name or folder.resolve().name, settings)
    return Trackers({name: _make(name, subject) for name in names}, folder, say)


def _make(name: str, subject: Subject) -> Tracker:
    module, kind = TRACKERS[name]
    return cast("Tracker", getattr(import_module(module), kind)(subject))
