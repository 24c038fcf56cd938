"""Logs of runs as training writes them, with kills in them."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

Line = dict[str, object]
START = datetime(2026, 11, 21, tzinfo=UTC)


def dataset(*, validation: int = 4, **fields: object) -> Line:
    return {"event": "dataset", "splits": {"train": {"rows": 8}, "validation": {"rows": validation}}, **fields}


def fit(from_step: int = 0) -> Line:
    return {"event": "fit_started", "key": "k", "from_step": from_step}


def step(number: int, num_steps: int = 4) -> Line:
    return {
        "event": "step",
        "step": number,
        "num_steps": num_steps,
        "loss": 1.0 / number,
        "token_accuracy": 0.5,
        "num_tokens": 100,
        "seconds": 2.0,
    }


def validation(number: int) -> Line:
    return {"event": "validation", "step": number, "best": True, "loss": 2.0 / number, "token_accuracy": 0.25}


def saved(number: int) -> Line:
    return {"event": "checkpoint", "step": number, "best": False}


def kept(number: int) -> Line:
    return {
        "event": "epoch_kept",
        "step": number,
        "epoch": 1.0,
        "folder": f"step-{number:06d}",
        "loss": 1.0 / number,
        "token_accuracy": 0.5,
        "validation_loss": 2.0 / number,
        "validation_token_accuracy": 0.25,
    }


def whole_run() -> list[Line]:
    """Four steps, two epochs, undisturbed."""
    epochs = (
        [step(1), saved(1), step(2), validation(2), kept(2), saved(2)],
        [step(3), step(4), validation(4), kept(4)],
    )
    return [dataset(), fit(), *epochs[0], *epochs[1], saved(4), {"event": "training_finished", "step": 4}]


def run_with_kills() -> list[Line]:
    """The same run, killed behind a step, behind a validation, and between saving and saying so."""
    return [
        *[dataset(), fit(), step(1)],
        *[dataset(), fit(), step(1), saved(1), step(2)],
        *[dataset(), {"event": "resumed", "step": 1}, fit(1), step(2), validation(2), kept(2)],
        *[dataset(), {"event": "resumed", "step": 1}, fit(1), step(2), validation(2), kept(2), saved(2), step(3)],
        *[dataset(), {"event": "resumed", "step": 3}, fit(3), step(4), validation(4), kept(4), saved(4)],
        {"event": "training_finished", "step": 4},
    ]


def timed(lines: Iterable[Line]) -> Iterator[Line]:
    """Each a second behind the one before."""
    for number, line in enumerate(lines):
        yield {"time": (START + timedelta(seconds=number)).isoformat(timespec="milliseconds"), **line}


def to_bytes(lines: Iterable[Line]) -> bytes:
    """As they stand in a log."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in timed(lines))
