"""One trial in a process of its own: what `kivnun run RECIPE --run-dir FOLDER` does, ended with its parent.

    python -P -m kivnun.search.worker RECIPE FOLDER [FIRST]

FIRST is the run folder of an earlier trial: its data set is taken over where it is the same, and the trial is refused
where data or base model changed since then. An error that a user can mend is told as JSON on standard output.
"""

import ctypes
import json
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from kivnun.errors import EXIT_STATUS, UserError
from kivnun.recipe.load import load_recipe
from kivnun.runs import Run, open_run, read_lock
from kivnun.runs.linked import copy_linked

SHARED_STAGES = ("base", "dataset")
DIES_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux."""


def run_trial(recipe: Path, folder: Path, first: Path | None) -> None:
    """Train one trial, going on from its own checkpoints.

    Raises:
        UserError: Whatever training refuses; `search-differs` when data or base model are not those of the first trial.
    """
    from kivnun.pipeline import run_recipe  # noqa: PLC0415 - seconds of imports, after the signals are set

    loaded = load_recipe(recipe)
    with open_run(folder) as run:

        def show(event: str, _fields: Mapping[str, object]) -> None:
            if event == "dataset" and first is not None:
                require_same_inputs(run, first)

        if first is not None:
            take_stages(first, folder)
        run_recipe(loaded, run, show=show)


def take_stages(source: Path, folder: Path) -> None:
    """Link finished stages of another run; whether they fit is decided by their keys, as for all stages."""
    for name in SHARED_STAGES:
        if (source / name).is_dir() and not (folder / name).exists():
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            copy_linked(source / name, partial)
            partial.rename(folder / name)


def require_same_inputs(run: Run, first: Path) -> None:
    """Refuse rows or a base model that changed since the first trial: values could not be compared.

    Raises:
        UserError: `search-differs`.
    """
    before, now = read_lock(first), read_lock(run.folder)
    # Base models of other names are part of the search.
    same_name = before.base_model.name == now.base_model.name
    changed = [name for name, content in now.data.items() if before.data.get(name) != content]
    changed += (
        [now.base_model.name] if same_name and before.base_model.content_hash != now.base_model.content_hash else []
    )
    if changed:
        hint = "bring back what it was, or search again in another folder (--out)"
        problem = f"{', '.join(changed)} changed since the first trial of the search"
        raise UserError("search-differs", problem, hint=hint)


def _end_with_parent() -> None:
    """A search that is killed leaves no process behind; what the trial has saved stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """The process: status 0, 2 for a `UserError`, 130 after an interruption."""
    _end_with_parent()
    paths = [Path(text) for text in sys.argv[1:]]
    try:
        run_trial(paths[0], paths[1], paths[2] if len(paths) > 2 else None)
    except UserError as error:
        told = {"code": error.code, "problem": error.problem, "hint": error.hint, "details": error.details}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.exit(EXIT_STATUS)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
