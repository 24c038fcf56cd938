"""What is kept of a finished arm: `arms/NAME.json`, whole or absent, with what its answers used."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from kivnun.asking.request import Reply
from kivnun.decide.results import Arm, Cost, Freshness, Latency
from kivnun.errors import UserError
from kivnun.evaluation.results import Estimate
from kivnun.runs import write_atomic

ARMS_FOLDER = "arms"

Values = TypeVar("Values")


@dataclass(frozen=True)
class Measured:
    """An arm on the test rows, before it is compared with others and priced.

    Attributes:
        arm: The arm, without cost and difference.
        replies: Its replies to the test rows.
        price: Name of its model in the price table; None for a model of this machine.
        seconds_per_request: Mean time of the requests that were timed alone; None for an endpoint.
        training_minutes: Of this machine.
        pilot_scores: Main metric of each pilot row.
        folders: Run folders of its trainings, the first one the one that answered.
    """

    arm: Arm
    replies: tuple[Reply, ...]
    price: str | None = None
    seconds_per_request: float | None = None
    training_minutes: float = 0.0
    pilot_scores: tuple[float, ...] = ()
    folders: tuple[str, ...] = field(default=())


def write_measured(folder: Path, key: str, measured: Measured) -> None:
    """Keep a finished arm.

    Args:
        folder: The folder of the comparison.
        key: What it depends on; under another one it is not found again.
        measured: The arm.
    """
    # The texts of the replies are the arm's answers.
    replies = [asdict(replace(reply, text="")) for reply in measured.replies]
    values = {"key": key, **{**asdict(measured), "replies": replies}}
    path = _path(folder, measured.arm.name)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(values, ensure_ascii=False) + "\n")


def read_measured(folder: Path, key: str, name: str) -> Measured | None:
    """A finished arm with this key, if there is one.

    Raises:
        UserError: `artifact-damaged` where its file cannot be read.
    """
    path = _path(folder, name)
    if not path.exists():
        return None
    try:
        values = cast("dict[str, Any]", json.loads(path.read_text("utf-8")))
        if values.pop("key") != key:
            return None
        arm = arm_from_json(values.pop("arm"))
        kept = zip(values.pop("replies"), arm.answers, strict=True)
        replies = tuple(Reply(**{**reply, "text": answer}) for reply, answer in kept)
        values["pilot_scores"] = tuple(values["pilot_scores"])
        values["folders"] = tuple(values["folders"])
        return Measured(arm=arm, replies=replies, **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = f"remove {path}; the arm is then measured again, from answers that are kept"
        raise UserError("artifact-damaged", f"{path} cannot be read ({error})", hint=hint) from error


def kept_values(path: Path, key: str, make: Callable[[], Values]) -> Values:
    """JSON values that were made earlier under this key, or are made and kept now.

    Args:
        path: The file.
        key: What they depend on.
        make: Makes them.
    """
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if kept.get("key") == key:
        return cast("Values", kept["values"])
    values = make()
    write_atomic(path, json.dumps({"key": key, "values": values}, ensure_ascii=False) + "\n")
    return values


def arm_from_json(values: Mapping[str, Any]) -> Arm:
    """The arm whose fields were written."""
    fields = dict(values)
    fields["metrics"] = {name: Estimate(**each) for name, each in fields["metrics"].items()}
    for name, kind in (("pilot", Estimate), ("difference", Estimate), ("cost", Cost), ("latency", Latency)):
        fields[name] = None if fields[name] is None else kind(**fields[name])
    fields["freshness"] = None if fields["freshness"] is None else Freshness(**fields["freshness"])
    for name in ("scores", "answers", "seed_scores"):
        fields[name] = tuple(fields[name])
    fields["sources"] = tuple(tuple(_source(source) for source in row) for row in fields["sources"])
    return Arm(**fields)


def _source(values: Sequence[Any]) -> tuple[str, int, int]:
    document, start, end = values
    return str(document), int(start), int(end)


def _path(folder: Path, name: str) -> Path:
    # A colon is no character of file names everywhere, and names have none of their own.
    return folder / ARMS_FOLDER / f"{name.replace(':', '@')}.json"
