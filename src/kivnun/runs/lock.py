"""`run.lock.json`: what a recipe resolved to, so that the same run can be made again."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.runs.atomic import write_atomic
from kivnun.runs.manifest import library_versions, now

LOCK_NAME = "run.lock.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelLock:
    """The base model that was used."""

    name: str
    """Its name as in the recipe."""
    revision: str | None
    """The hub's commit, for a model from the hub."""
    content_hash: str
    """Hash of its files."""


@dataclass(frozen=True)
class RunLock:
    """The content of `run.lock.json`."""

    recipe: Mapping[str, object]
    """The recipe with every default spelled out."""
    base_model: ModelLock
    """The base model."""
    data: Mapping[str, str]
    """Content hash of every data file."""
    seed: int
    """The training seed."""
    device: str
    """Where it was computed, such as `cpu`."""
    versions: Mapping[str, str] = field(default_factory=library_versions)
    """Versions of the libraries."""
    python: str = field(default_factory=platform.python_version)
    """Version of Python."""
    started_at: str = field(default_factory=now)
    """When the run started, in UTC."""
    format: int = FORMAT
    """Version of this layout."""


def write_lock(run_dir: Path, lock: RunLock) -> None:
    """Write the lock of a run, whole or not at all."""
    write_atomic(run_dir / LOCK_NAME, json.dumps(asdict(lock), ensure_ascii=False, indent=2) + "\n")


def read_lock(run_dir: Path) -> RunLock:
    """The lock of a run.

    Raises:
        UserError: `run-missing` when the run has none; `artifact-damaged` when it cannot be read.
    """
    path = run_dir / LOCK_NAME
    try:
        fields = cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
        return _parse(fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "run `kivnun run` with the recipe to make it"
        raise UserError("run-missing", f"{run_dir} has no {LOCK_NAME}", hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        hint = f"remove {path}; the next run writes it anew"
        raise UserError("artifact-damaged", f"{path} cannot be read ({error})", hint=hint) from error


def _parse(fields: Mapping[str, object]) -> RunLock:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, known is {FORMAT}")
    model = cast("dict[str, str | None]", fields["base_model"])
    return RunLock(
        recipe=cast("dict[str, object]", fields["recipe"]),
        base_model=ModelLock(str(model["name"]), model["revision"], str(model["content_hash"])),
        data=cast("dict[str, str]", fields["data"]),
        seed=int(str(fields["seed"])),
        device=str(fields["device"]),
        versions=cast("dict[str, str]", fields["versions"]),
        python=str(fields["python"]),
        started_at=str(fields["started_at"]),
    )
