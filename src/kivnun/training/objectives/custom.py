"""A loss of your own: an entry point of the group `kivnun.objectives`, made with the options of the recipe."""

import importlib.metadata
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.recipe.objectives import CustomObjective
from kivnun.runs import hash_file
from kivnun.training.objectives.base import Objective

GROUP = "kivnun.objectives"
PARTS = ("start", "count", "prepare_step", "loss")
"""What an objective must have; `RowwiseObjective` brings all but `loss`."""
HOW = "docs/howto/own-loss.md shows a whole one"


def load_custom(section: CustomObjective) -> Objective:
    """The objective that an entry point makes from the recipe's options.

    Raises:
        UserError: `objective-invalid` where there is no such entry point, it cannot be imported, it does not take the
            options, or what it gives is no objective.
    """
    entry = find_entry(section.name)
    try:
        make = entry.load()
    except Exception as error:  # foreign code may raise anything
        raise _invalid(f"{_describe(entry)} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(make):
        raise _invalid(f"{_describe(entry)} is {type(make).__name__}, which cannot be called with options")
    _require_options(make, section.options, entry)
    try:
        made = make(**section.options)
    except Exception as error:  # as above
        problem = f"{_describe(entry)} does not accept {dict(section.options)}: {type(error).__name__}: {error}"
        raise _invalid(problem) from error
    missing = [part for part in PARTS if not callable(getattr(made, part, None))]
    if missing:
        raise _invalid(
            f"{_describe(entry)} gives {type(made).__name__}, which is no objective: it has no {', '.join(missing)}"
        )
    return cast("Objective", made)


def find_entry(name: str) -> EntryPoint:
    """The entry point of a name.

    Raises:
        UserError: `objective-invalid` where there is none, or where two packages have one of that name.
    """
    entries = list(importlib.metadata.entry_points(group=GROUP))
    found = [entry for entry in entries if entry.name == name]
    if len(found) > 1:
        raise _invalid(f"{len(found)} packages have an objective {name!r}: {', '.join(map(_package, found))}")
    if not found:
        known = ", ".join(sorted(entry.name for entry in entries)) or "none is installed"
        raise UserError(
            "objective-invalid",
            f"training.objective.name: no entry point {name!r} in the group {GROUP}",
            details=[f"known: {known}"],
            hint=_hint_for(name),
        )
    return found[0]


def _hint_for(name: str) -> str:
    if "contrast" in name.lower():
        # Tutorials bring this loss of pairs as a class of their own, in a file that nothing installs.
        built_in = "write `objective: {kind: contrastive, loss: margin}`, the contrastive loss of pairs with a label"
        return f"{built_in}; for another loss, {HOW}"
    return f"install the package that brings it into the environment of Kivnun; {HOW}"


def describe_custom(section: CustomObjective) -> dict[str, str]:
    """Package, version and source of an objective, so that a changed one is trained anew.

    Raises:
        UserError: As for `load_custom`.
    """
    load_custom(section)
    entry = find_entry(section.name)
    source = inspect.getsourcefile(inspect.getmodule(inspect.unwrap(entry.load())) or entry.load())
    return {"package": _package(entry), "source": hash_file(Path(source)) if source else ""}


def _require_options(make: object, options: Mapping[str, object], entry: EntryPoint) -> None:
    """Refuse options that the callable does not know by name, with those that it knows."""
    try:
        signature = inspect.signature(cast("type", make))
    except (TypeError, ValueError):
        return  # some callables of C do not tell
    try:
        signature.bind(**options)
    except TypeError as error:
        raise UserError(
            "objective-invalid",
            f"training.objective.options: {_describe(entry)}: {error}",
            details=[f"it takes: {', '.join(map(str, signature.parameters.values())) or 'nothing'}"],
            hint="write the options as the callable names them",
        ) from error


def _describe(entry: EntryPoint) -> str:
    return f"the objective {entry.name!r} ({entry.value} of {_package(entry)})"


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def _invalid(problem: str) -> UserError:
    return UserError("objective-invalid", problem, hint=HOW)
