"""Events as numbers with one set of names for every tracker: `train/loss`, `validation/loss`, `usage/memory_bytes`.

After a resumption some steps happen again. A resumed run repeats them bit for bit, so what `events.jsonl` holds of the
same training up to the step it goes on from is all that a tracker needs to begin where the run does.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kivnun.runs import Event

GROUPS = {"step": "train", "validation": "validation", "usage": "usage"}
"""The events that hold numbers, and the group of names that each gives."""

_NOT_MEASURED = {"time", "event", "step", "num_steps", "best"}
_NOT_FINITE = {"nan", "inf", "-inf"}


@dataclass(frozen=True)
class Point:
    """What was measured at a step.

    Attributes:
        step: The step.
        values: Numbers by name, such as `train/loss`.
        seconds: When, in seconds since 1970.
    """

    step: int
    values: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Training:
    """A training that begins or goes on.

    Attributes:
        key: Hash of everything that it is made from; a resumed training has the same one.
        from_step: The step that it goes on from, 0 at the start.
        kept: What earlier attempts measured up to that step, once each, in order.
        reached: The last step that any earlier attempt did.
    """

    key: str
    from_step: int
    kept: Sequence[Point]
    reached: int


@dataclass(frozen=True)
class Subject:
    """What a tracker may say about the run.

    Attributes:
        folder: The run folder.
        name: Its name.
        settings: The recipe's values by their paths, such as `training.learning_rate`.
    """

    folder: Path
    name: str
    settings: Mapping[str, object]


def read_point(event: str, fields: Mapping[str, object]) -> Point | None:
    """The numbers of an event, or None where it has none.

    Args:
        event: The kind of the event.
        fields: Its fields; those of a logged event have their `time`, one that happens now needs none.
    """
    group = GROUPS.get(event)
    step = fields.get("step")
    if group is None or not isinstance(step, int):
        return None
    numbers = ((name, _number(value)) for name, value in fields.items() if name not in _NOT_MEASURED)
    values = {f"{group}/{name}": number for name, number in numbers if number is not None}
    seconds = values.get("train/seconds", 0.0)
    if seconds > 0 and "train/num_tokens" in values:
        values["train/tokens_per_second"] = values["train/num_tokens"] / seconds
    moment = fields.get("time")
    now = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else time.time()
    return Point(step, values, now) if values else None


def read_training(events: Sequence[Event], key: str, from_step: int) -> Training:
    """What the earlier attempts of a training left in the run's log.

    Args:
        events: All events of the run; the `fit_started` of this attempt may be among them.
        key: Hash of everything that the training is made from.
        from_step: The step that it goes on from.
    """
    points: list[Point] = []
    is_ours, reached = False, 0
    for event in events:
        if event.get("event") == "fit_started":
            is_ours = event.get("key") == key
            start = event.get("from_step")
            if is_ours and isinstance(start, int):
                # What this attempt does again stands further down.
                points = [point for point in points if point.step <= start]
        point = read_point(str(event.get("event")), event) if is_ours else None
        if point is not None:
            points.append(point)
            reached = max(reached, point.step)
    return Training(key, from_step, [point for point in points if point.step <= from_step], reached)


def _number(value: object) -> float | None:
    """A number, also one that is not finite, which the log keeps as text."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
