"""A finished stage that another recipe will take the place of: what differs, and a copy that costs no space."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.runs.linked import copy_linked
from kivnun.runs.manifest import read_manifest


def changed_inputs(folder: Path, inputs: Mapping[str, object]) -> list[str]:
    """Names of the inputs, dotted, in which a stage that is there differs from the one to be made.

    Args:
        folder: The stage that is there.
        inputs: What the new one is made from.
    """
    try:
        before = dict(_flatten(read_manifest(folder).inputs))
    except UserError:
        return ["all: it cannot be read"]
    now = dict(_flatten(json.loads(json.dumps(inputs))))
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(cast("Mapping[str, object]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keep_copy(folder: Path, kept: Path) -> None:
    """Keep a stage's files under another name, in place of what was kept there; linked where the disk can."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    copy_linked(folder, kept)
