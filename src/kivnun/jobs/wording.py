"""What the log of a run says, in the words of the hosted service: lines become messages, metrics and checkpoints.

The same lines always become the same events, wherever reading stops and goes on, and a step that is done again after a
kill is told once. Of a long training about a thousand steps are told, those with a validation among them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from kivnun.runs.manifest import hash_values

MOST_STEPS_TOLD = 1000
_SPEED_STEPS = 20
_BEHIND_STEP = frozenset(
    ("step", "checkpoint", "epoch_kept", "training_finished", "early_stop", "interrupted", "not_learnt", "run_failed")
)
"""Lines that say that no validation of the step before will follow."""
Level = Literal["info", "warn", "error"]
Fields = Mapping[str, object]


@dataclass(frozen=True)
class Said:
    """An event of a job.

    Attributes:
        source: What it was made from; no source is told twice.
        message: For people.
        level: How bad it is.
        type: `message` or `metrics`.
        data: For programs.
        at: When it happened, in seconds since 1970.
    """

    source: str
    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    at: int = 0


@dataclass(frozen=True)
class Kept:
    """A model as it was after an epoch.

    Attributes:
        step: The step.
        folder: Its name in the run's folder of epochs.
        metrics: As a checkpoint shows them.
        at: When it was kept.
    """

    step: int
    folder: str
    metrics: Mapping[str, Any]
    at: int


@dataclass(frozen=True)
class Told:
    """What some lines say.

    Attributes:
        said: Events.
        kept: Checkpoints.
        num_lines: How many lines of the log, from its start, need not be read again.
        is_further: Whether these lines tell of a step that was never done before.
        finishes_at: When the last step will be done at this pace; None while that is unknown.
    """

    said: Sequence[Said] = ()
    kept: Sequence[Kept] = ()
    num_lines: int = 0
    is_further: bool = False
    finishes_at: int | None = None


class Wording:
    """Takes the lines of a log one by one; what was told is asked for in between."""

    def __init__(self) -> None:
        self.num_lines = 0
        self._said: list[Said] = []
        self._kept: list[Kept] = []
        self._step: Fields | None = None
        self._step_line = 0
        self._furthest = 0
        self._is_further = False
        self._has_validation = True
        self._seconds: list[float] = []
        self._finishes_at: int | None = None

    def take(self, event: Fields) -> None:
        """Read the next line."""
        self.num_lines += 1
        kind = str(event.get("event"))
        if self._step is not None:
            self._end_step(kind, event)
        if kind == "step":
            self._begin_step(event)
        elif kind == "dataset":
            self._has_validation = _num_rows(event, "validation") > 0
            self._say_each(event, _say_dataset(event))
        elif kind == "epoch_kept":
            self._keep(event)
        elif kind in SAYERS:
            self._say_each(event, SAYERS[kind](event))

    def hand_over(self) -> Told:
        """What was told since the last time."""
        num_lines = self.num_lines if self._step is None else self._step_line - 1
        told = Told(tuple(self._said), tuple(self._kept), num_lines, self._is_further, self._finishes_at)
        self._said, self._kept, self._is_further = [], [], False
        return told

    def forget(self) -> None:
        """Take all lines so far as told: none of their steps is progress any more."""
        if self._step is not None:
            self._furthest = max(self._furthest, _whole(self._step, "step"))
        self.hand_over()

    def _begin_step(self, event: Fields) -> None:
        step, num_steps = _whole(event, "step"), _whole(event, "num_steps")
        self._seconds = [*self._seconds[1 - _SPEED_STEPS :], _number(event, "seconds") or 0.0]
        left = (num_steps - step) * sum(self._seconds) / len(self._seconds)
        self._finishes_at = math.ceil(_time(event) + left)
        self._step, self._step_line = event, self.num_lines
        if not self._has_validation:
            self._tell_step(None)

    def _end_step(self, kind: str, event: Fields) -> None:
        """Tell the latest step if this line says what its validation was, or that there was none."""
        number = _whole(cast("Fields", self._step), "step")
        if kind == "validation" and _whole(event, "step") == number:
            self._tell_step(event)
        elif kind in _BEHIND_STEP:
            self._tell_step(None)
        elif kind == "fit_started":
            # Killed behind the step: it is saved, or will be done again.
            if _whole(event, "from_step") >= number:
                self._tell_step(None)
            self._leave_step()

    def _leave_step(self) -> None:
        """Count the latest step, as its line is never read again: counted before, it were progress for each reader."""
        if self._step is not None:
            number = _whole(self._step, "step")
            self._is_further |= number > self._furthest
            self._furthest = max(number, self._furthest)
        self._step = None

    def _tell_step(self, validation: Fields | None) -> None:
        step = cast("Fields", self._step)
        self._leave_step()
        number, num_steps = _whole(step, "step"), _whole(step, "num_steps")
        data = {"step": number, "total_steps": num_steps, **_measured(step, "train")}
        words = [f"training loss={_shown(step)}"]
        if validation is not None:
            data |= _measured(validation, "valid")
            words.append(f"validation loss={_shown(validation)}")
            # Every validation is over all rows of the file.
            data |= _measured(validation, "full_valid")
            words.append(f"full validation loss={_shown(validation)}")
        stride = -(-num_steps // MOST_STEPS_TOLD)
        if stride <= 1 or number % stride == 0 or number in (1, num_steps) or validation is not None:
            message = f"Step {number}/{num_steps}: {', '.join(words)}"
            self._said.append(Said(f"step:{number}", message, type="metrics", data=data, at=_time(step)))

    def _keep(self, event: Fields) -> None:
        step, validation = _whole(event, "step"), _of_validation(event)
        metrics = {"step": step, **_measured(event, "train")}
        metrics |= {**_measured(validation, "valid"), **_measured(validation, "full_valid")}
        self._kept.append(Kept(step, str(event["folder"]), metrics, _time(event)))

    def _say_each(self, event: Fields, said: Sequence[tuple[Level, str]]) -> None:
        for level, message in said:
            # A run that goes on says again what it said about its data; that it goes on is new every time.
            again = event.get("event") == "resumed"
            source = f"log:{self.num_lines}" if again else f"said:{hash_values({'message': message})[:24]}"
            self._said.append(Said(source, message, level, at=_time(event)))


def _measured(event: Fields, kind: str) -> dict[str, float]:
    """Loss and accuracy under the names that the API gives them."""
    names = {"loss": f"{kind}_loss", "token_accuracy": f"{kind}_mean_token_accuracy"}
    found = {name: _number(event, field) for field, name in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _of_validation(event: Fields) -> Fields:
    """What an `epoch_kept` line says of the validation of its step."""
    prefix = "validation_"
    return {name.removeprefix(prefix): value for name, value in event.items() if name.startswith(prefix)}


def _shown(event: Fields) -> str:
    loss = _number(event, "loss")
    return "unknown" if loss is None else f"{loss:.2f}"


def _number(event: Fields, name: str) -> float | None:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(event: Fields, name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0


def _time(event: Fields) -> int:
    try:
        return int(datetime.fromisoformat(str(event.get("time"))).timestamp())
    except ValueError:
        return 0


def _num_rows(event: Fields, split: str) -> int:
    splits = cast("Mapping[str, Fields]", event.get("splits") or {})
    return _whole(splits.get(split) or {}, "rows")


def _say_dataset(event: Fields) -> list[tuple[Level, str]]:
    """What was left out, cut or noticed while rows became tokens."""
    said: list[tuple[Level, str]] = []
    for why, count in cast("Mapping[str, object]", event.get("dropped") or {}).items():
        said.append(("warn", f"{count} example(s) were left out: {why}"))
    return [*said, *(("warn", str(note)) for note in cast("Sequence[object]", event.get("notes") or ()))]


def _say_notes(event: Fields) -> list[tuple[Level, str]]:
    return [("info", str(note)) for note in cast("Sequence[object]", event.get("notes") or ())]


def _say(level: Level, words: str) -> Callable[[Fields], list[tuple[Level, str]]]:
    """One event of fixed words with fields of the line in them."""
    return lambda event: [(level, words.format_map(event))]


SAYERS: Mapping[str, Callable[[Fields], list[tuple[Level, str]]]] = {
    "training_started": _say_notes,
    "context_limit": _say("warn", "The model's context is {context} tokens: examples may not be longer"),
    "resumed": _say("info", "Training continues after step {step}"),
    "checkpoint_damaged": _say("warn", "Checkpoint {folder} is damaged and not used"),
    "computed_otherwise": _say("warn", "{settings} changed: training continues, but not bit for bit as it would have"),
    "micro_batch": _say("warn", "Memory ran out: from step {step} on {micro_batch_tokens} tokens are computed at once"),
    "overfitting": _say("warn", "Overfitting: {words}"),
    "not_learnt": _say(
        "warn",
        "Nothing was learnt: no validation loss (lowest {best:.4f}) is below that of the first step ({first:.4f}); "
        "try another learning_rate_multiplier",
    ),
    "early_stop": _say("info", "Training stopped early after step {step}; step {best_step} was best and is kept"),
    "tracker_failed": _say("warn", "{tracker} failed and is off, training continues"),
}
"""Lines that become a message, by their kind; all others are told in another way or need no words."""
