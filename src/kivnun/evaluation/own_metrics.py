"""A metric of your own: an entry point of the group `kivnun.metrics`, a function of one answer."""

import importlib.metadata
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.runs import hash_file

GROUP = "kivnun.metrics"
HOW = f"an entry point of the group {GROUP} is a function (answer, references, fields) that returns 0 to 1"

OwnMetric = Callable[[str, Sequence[str], Mapping[str, str]], float]
"""From an answer, the row's right answers and its fields to a number from 0 to 1, better when higher."""


def own_names() -> list[str]:
    """Names of the metrics that installed packages bring."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})


def load_own(name: str) -> OwnMetric:
    """A metric of your own.

    Args:
        name: Its entry point; there is one.

    Raises:
        UserError: `metric-invalid` where several packages have it, it cannot be imported or cannot be called so.
    """
    entry = _find(name)
    try:
        metric = entry.load()
    except Exception as error:  # somebody else's module may fail in any way
        problem = f"{_describe(entry)} cannot be imported: {type(error).__name__}: {error}"
        raise UserError("metric-invalid", problem, hint=HOW) from error
    if not callable(metric):
        raise UserError("metric-invalid", f"{_describe(entry)} is no function", hint=HOW)
    try:
        inspect.signature(metric).bind("", [], {})
    except TypeError as error:
        raise UserError("metric-invalid", f"{_describe(entry)}: {error}", hint=HOW) from error
    except ValueError:
        pass  # some callables of C do not tell their arguments
    return cast("OwnMetric", metric)


def score_own(
    name: str, metric: OwnMetric, answer: str, references: Sequence[str], row: tuple[str, Mapping[str, str]]
) -> float:
    """What a metric of your own gives for one answer.

    Args:
        name: Its name.
        metric: The function.
        answer: What was answered.
        references: What would be right.
        row: Where the row stands, and its fields.

    Raises:
        UserError: `metric-invalid` where it fails or gives anything but a number from 0 to 1.
    """
    where, fields = row
    try:
        value = metric(answer, list(references), dict(fields))
    except Exception as error:  # somebody else's function may fail in any way
        problem = f"{where}: the metric {name!r} failed: {type(error).__name__}: {error}"
        raise UserError("metric-invalid", problem, hint="mend the function, or leave the metric out") from error
    # numpy's numbers are no `float`, but become one.
    number = float(value) if isinstance(value, int | float) or hasattr(value, "__float__") else math.nan
    if not 0 <= number <= 1:
        problem = f"{where}: the metric {name!r} gave {value!r}, which is no number from 0 to 1"
        raise UserError("metric-invalid", problem, hint=HOW)
    return number


def describe_own(name: str) -> dict[str, str]:
    """Package, version and source of a metric, so that a changed one is measured anew.

    Args:
        name: Its entry point.

    Raises:
        UserError: As for `load_own`.
    """
    metric = inspect.unwrap(load_own(name))
    module = inspect.getmodule(metric)
    source = inspect.getsourcefile(module) if module else None
    return {"package": _package(_find(name)), "source": hash_file(Path(source)) if source else ""}


def _find(name: str) -> EntryPoint:
    found = [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == name]
    if len(found) != 1:
        problem = f"{len(found)} packages have a metric {name!r}: {', '.join(map(_package, found)) or 'none'}"
        raise UserError("metric-invalid", problem, hint=HOW)
    return found[0]


def _describe(entry: EntryPoint) -> str:
    return f"the metric {entry.name!r} ({entry.value} of {_package(entry)})"


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
