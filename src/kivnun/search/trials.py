"""What is kept of each trial: `trials/0007.json`, whole or absent, from its first moment to its end.

    search.json        what the search is, by which a later command knows that it goes on with the same one
    trials/0007.json   what was set, and what came of it; `running` until it ended
    trials/0007.yaml   its recipe, as `kivnun run` takes it
    trials/0007.log    what its process said
    trials/0007/       its run folder
    best.yaml, results.json, search.html

These files are all that a search remembers: no database and no pickle. A killed search is rebuilt from them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from kivnun.errors import UserError
from kivnun.runs.atomic import write_atomic

SEARCH_NAME = "search.json"
TRIALS = "trials"

State = Literal["running", "complete", "pruned", "failed"]
Values = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class Trial:
    """One trial, as far as it came.

    Attributes:
        number: From 1.
        drawn: What the sampler chose.
        values: The same as it is set in the recipe: numbers with four digits.
        state: `running` until it ended.
        value: Best validation value, of the step that training keeps; None where there is none.
        best_step: The step of that value.
        steps: Steps done.
        num_steps: Steps planned.
        num_rows: Validation rows that there are.
        seconds: How long its process ran, all attempts together.
        reports: Validation values by percent of the steps, as the pruner saw them.
        same_as: The earlier trial with equal values, whose result this one has.
        reason: Why it failed or was stopped.
    """

    number: int
    drawn: Values
    values: Values
    state: State = "running"
    value: float | None = None
    best_step: int | None = None
    steps: int = 0
    num_steps: int | None = None
    num_rows: int = 0
    seconds: float = 0.0
    reports: Sequence[tuple[int, float]] = field(default=())
    same_as: int | None = None
    reason: str | None = None


def folder_of(search_dir: Path, number: int) -> Path:
    """The run folder of a trial."""
    return search_dir / TRIALS / f"{number:04d}"


def recipe_of(search_dir: Path, number: int) -> Path:
    """The recipe of a trial."""
    return search_dir / TRIALS / f"{number:04d}.yaml"


def write_trial(search_dir: Path, trial: Trial) -> None:
    """Keep a trial, whole or not at all."""
    text = json.dumps(asdict(trial), ensure_ascii=False, indent=2)
    write_atomic(search_dir / TRIALS / f"{trial.number:04d}.json", text + "\n")


def read_trials(search_dir: Path) -> list[Trial]:
    """The trials of a search by number.

    Raises:
        UserError: `artifact-damaged` when a file cannot be read.
    """
    paths = sorted((search_dir / TRIALS).glob("*.json"))
    return [_read(path) for path in paths if re.fullmatch(r"\d{4,}", path.stem)]


def _read(path: Path) -> Trial:
    try:
        fields = cast("dict", json.loads(path.read_text("utf-8")))
        reports = tuple((int(percent), float(value)) for percent, value in fields.pop("reports"))
        return Trial(**fields, reports=reports)
    except (ValueError, KeyError, TypeError) as error:
        hint = f"remove {path}; the trial is then done again"
        raise UserError("artifact-damaged", f"{path} cannot be read ({error})", hint=hint) from error


def require_same_search(search_dir: Path, about: Mapping[str, object]) -> None:
    """Note what a search is in its folder, or compare it with what stands there.

    Raises:
        UserError: `search-differs` when the folder holds trials of another search.
    """
    path = search_dir / SEARCH_NAME
    text = json.dumps(about, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    kept = path.read_text("utf-8") if path.exists() else text
    if kept != text:
        changed = _changed(kept, about)
        raise UserError(
            "search-differs",
            f"{search_dir} holds a search with another {' and another '.join(changed) or 'state'}",
            hint="name another folder with --out, or remove this one; only num_trials and workers may change",
        )
    (search_dir / TRIALS).mkdir(exist_ok=True)
    if not path.exists():
        write_atomic(path, text)


def _changed(kept: str, about: Mapping[str, object]) -> list[str]:
    try:
        before = cast("dict[str, object]", json.loads(kept))
    except ValueError:
        return []
    now = cast("dict[str, object]", json.loads(json.dumps(about)))
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
