"""A run as its events tell it: read while they are written, and gathered into what stands now."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from kivnun.errors import UserError
from kivnun.runs.ending import FAILED, FINISHED, INTERRUPTED
from kivnun.runs.events import Event

_ENDINGS = (FINISHED, FAILED, INTERRUPTED, "interrupted")
_SPEED_STEPS = 20
_NUMBERS_APART = {"time", "event", "step", "best"}


class EventTail:
    """Reads the whole lines that were added to an `events.jsonl` since the last time.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """The new events; a line that is still being written is read when it is whole.

        Raises:
            UserError: `artifact-damaged` when a whole line cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                # A shorter file is another one: its first event is new.
                file.seek(self._offset if self._offset <= size else 0)
                start, content = file.tell(), file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset = start + len(whole)
        return [self._parse(line) for line in whole.splitlines() if line]

    def _parse(self, line: bytes) -> Event:
        try:
            event: object = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            hint = "remove that line by hand; the other events are whole"
            shown = line[:80].decode("utf-8", "backslashreplace")
            raise UserError("artifact-damaged", f"{self._path} has a line that is not an event: {shown}", hint=hint)
        return cast("Event", event)


class StepNumbers(NamedTuple):
    """What is kept of every step."""

    loss: float | None
    """The loss; None where it was not finite."""
    num_tokens: int
    """Tokens processed."""
    seconds: float
    """Wall time."""


@dataclass
class RunStory:
    """What the events of a run say, gathered one by one.

    Attributes:
        started_at: Time of the first event of all.
        last_at: Time of the last event.
        stage: The stage that is being made, or the last one.
        ending: The event that ended the last attempt; None while none did.
        key: Key of the latest training.
        is_trained: Whether the latest training went to its end.
        training: Fields of its `training_started`.
        last_step: Fields of its latest step.
        steps: Numbers of each of its steps, once each.
        validations: Fields of each of its validations.
        usage: Fields of the latest sample of the machine's use.
    """

    started_at: str | None = None
    last_at: str | None = None
    stage: str | None = None
    ending: Event | None = None
    key: str | None = None
    is_trained: bool = False
    training: Event = field(default_factory=dict[str, object])
    last_step: Event = field(default_factory=dict[str, object])
    steps: dict[int, StepNumbers] = field(default_factory=dict[int, StepNumbers])
    validations: dict[int, Event] = field(default_factory=dict[int, Event])
    usage: Event = field(default_factory=dict[str, object])

    def take(self, event: Event) -> None:
        """Add the next event."""
        kind = str(event.get("event"))
        moment = event.get("time")
        if isinstance(moment, str):
            self.started_at, self.last_at = self.started_at or moment, moment
        self.ending = event if kind in _ENDINGS else None
        if kind in ("stage_started", "stage_skipped"):
            self.stage = str(event.get("stage"))
        elif kind == "training_started":
            self.training = event
        elif kind == "fit_started":
            self._start_fit(event)
        elif kind == "training_finished":
            self.is_trained = True
        elif kind == "usage":
            self.usage = event
        elif kind == "step":
            self.last_step = event
            seconds = number(event.get("seconds")) or 0.0
            kept = StepNumbers(number(event.get("loss")), whole(event.get("num_tokens")), seconds)
            self.steps[whole(event.get("step"))] = kept
        elif kind == "validation":
            self.validations[whole(event.get("step"))] = event

    def _start_fit(self, event: Event) -> None:
        """A new training forgets the one before; one that goes on forgets the steps that it does again."""
        start = whole(event.get("from_step")) if event.get("key") == self.key else -1
        if start < 0:
            self.usage = {}
        self.key, self.is_trained = str(event.get("key")), False
        self.steps = {step: kept for step, kept in self.steps.items() if step <= start}
        self.validations = {step: kept for step, kept in self.validations.items() if step <= start}

    @property
    def step(self) -> int:
        """The last step that was done."""
        return max(self.steps, default=0)

    @property
    def num_steps(self) -> int:
        """Steps of the whole training; 0 before it is known."""
        return whole((self.last_step if self.steps else self.training).get("num_steps"))

    @property
    def best(self) -> tuple[int, float] | None:
        """The step whose weights are kept, by the metric that the recipe chose, and its validation loss."""
        kept = [step for step, event in self.validations.items() if event.get("best") is True]
        loss = number(self.validations[max(kept)].get("loss")) if kept else None
        return None if loss is None else (max(kept), loss)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of all steps of the latest training."""
        return _speed(self.steps.values())

    @property
    def recent_speed(self) -> float | None:
        """Speed of its last steps."""
        return _speed([self.steps[step] for step in sorted(self.steps)[-_SPEED_STEPS:]])

    @property
    def seconds_left(self) -> float | None:
        """Time until the last step at the pace of the last ones, validations and checkpoints left out."""
        last = [self.steps[step].seconds for step in sorted(self.steps)[-_SPEED_STEPS:]]
        return (self.num_steps - self.step) * sum(last) / len(last) if last else None

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Every number against the step: `train/loss`, `validation/loss`, and the metrics of the validations."""
        found: dict[str, list[tuple[int, float]]] = {}
        for step, numbers in sorted(self.steps.items()):
            if numbers.loss is not None:
                found.setdefault("train/loss", []).append((step, numbers.loss))
        for step, event in sorted(self.validations.items()):
            for name, value in event.items():
                measured = None if name in _NUMBERS_APART else number(value)
                if measured is not None:
                    found.setdefault(f"validation/{name}", []).append((step, measured))
        return found


def read_story(events: Iterable[Event]) -> RunStory:
    """What all these events say."""
    story = RunStory()
    for event in events:
        story.take(event)
    return story


def number(value: object) -> float | None:
    """A number of an event; None for anything else, such as the text `nan`."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(value: object) -> int:
    """A count of an event; 0 where there is none."""
    return value if isinstance(value, int) else 0


def _speed(steps: Iterable[StepNumbers]) -> float | None:
    kept = list(steps)
    seconds = sum(step.seconds for step in kept)
    return sum(step.num_tokens for step in kept) / seconds if seconds else None
