"""Checkpoints: all that a run needs to go on as if it had never stopped, in one folder that is whole or absent."""

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from kivnun.errors import UserError
from kivnun.runs import read_manifest, verify_artifact, write_stage
from kivnun.runs.atomic import disk_full_as_user_error
from kivnun.training.optimizer import MasterWeights
from kivnun.training.parallel import ALONE, Parallel
from kivnun.training.state_files import open_state, write_state

FOLDER = "checkpoints"
EARLIER = "earlier"
UNREADABLE = ""
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        best_step: The step with the best validation, by `training.best_metric`, or None before the first one.
        best_value: The metric's value there.
        stale_validations: Validations since then without a better one.
        num_tokens: Real tokens trained on.
        seconds: Wall time spent in steps.
        micro_batch_tokens: Most tokens that were computed at once, so that a resumed run cuts its batches alike.
        loss_sum: Training losses added up since the latest validation.
        loss_steps: How many they are.
        history: (step, mean training loss, validation loss) of every validation.
        first_loss: Training loss of the first step.
        computed_with: Settings by which results are rounded, as they were.
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    stale_validations: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    micro_batch_tokens: int | None = None
    loss_sum: float = 0.0
    loss_steps: int = 0
    history: tuple[tuple[int, float, float], ...] = ()
    first_loss: float | None = None
    computed_with: Mapping[str, object] = field(default_factory=dict[str, object])


def save_checkpoint(
    run_dir: Path, weights: MasterWeights, progress: Progress, *, key: str, parallel: Parallel = ALONE
) -> Path:
    """Write the checkpoint of a step; a full disk or a kill leaves the earlier ones as they were.

    Each process writes what it alone holds; the first one then hashes all of it and puts the folder in place.

    Args:
        run_dir: The run folder.
        weights: What is trained.
        progress: Where the run stands.
        key: The training that it belongs to.
        parallel: The processes; each must call this.

    Raises:
        UserError: `disk-full`, in every process, if it is full for one.
    """
    folder = run_dir / FOLDER
    name = name_of(progress.step)
    with ExitStack() as stack:

        def begin() -> str:
            if not parallel.leads:
                return ""
            return str(stack.enter_context(write_stage(folder, name, kind="checkpoint", key=key)))

        partial = Path(parallel.gather(parallel.together(begin))[0])

        def write() -> None:
            with disk_full_as_user_error(folder / name):
                write_state(partial, weights.tensors(), rank=parallel.rank, world_size=parallel.world_size)
                if parallel.leads:
                    (partial / _PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n", "utf-8")

        parallel.together(write)
        parallel.together(stack.close)
    return folder / name


def find_checkpoints(run_dir: Path, key: str) -> list[Path]:
    """The finished checkpoints of this very training, oldest first."""
    found = []
    for folder in (run_dir / FOLDER).glob("step-*"):
        try:
            if read_manifest(folder).key == key:
                found.append(folder)
        except UserError:
            continue
    return sorted(found, key=step_of)


def load_checkpoint(folder: Path, weights: MasterWeights, *, parallel: Parallel = ALONE) -> Progress:
    """Check the hashes of a checkpoint, and of the best one that its training would end with, and restore it.

    Args:
        folder: The checkpoint, written by any number of processes.
        weights: Where it goes.
        parallel: The processes; each must call this, and reads only what it holds.

    Raises:
        UserError: `artifact-damaged`, or `run-missing` without the best one; the weights are as they were.
    """

    def check() -> None:
        if parallel.leads:
            _require_whole(folder)

    parallel.together(check)
    parallel.together(lambda: _read_weights(folder, weights))
    return _read_progress(folder)


def _read_progress(folder: Path) -> Progress:
    fields = json.loads((folder / _PROGRESS).read_text("utf-8"))
    return Progress(**{**fields, "history": tuple(map(tuple, fields.get("history", ())))})


def _require_whole(folder: Path) -> None:
    key = verify_artifact(folder).key
    progress = _read_progress(folder)
    if progress.best_step is not None and progress.best_step != progress.step:
        best = folder.with_name(name_of(progress.best_step))
        if verify_artifact(best).key != key:
            raise UserError(
                "artifact-damaged",
                f"{best} belongs to another training than {folder}",
                hint=f"remove {folder} and give the same command again",
            )


def _read_weights(folder: Path, weights: MasterWeights) -> None:
    try:
        with open_state(folder) as tensors:
            weights.load_tensors(tensors)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            "artifact-damaged",
            f"{folder} does not fit the model: {error}",
            hint=f"remove {folder} and give the same command again",
        ) from error


def set_aside(run_dir: Path, key: str) -> list[int]:
    """Move the checkpoints of another recipe out of the way, and bring back those of this one that were moved so.

    Of several other trainings the latest is kept, in `checkpoints/earlier`: whoever changed a setting by mistake gives
    the old recipe again and goes on.

    Args:
        run_dir: The run folder.
        key: The training that begins or goes on.

    Returns:
        The steps of the checkpoints that were moved away.
    """
    folder, earlier = run_dir / FOLDER, run_dir / FOLDER / EARLIER
    if not find_checkpoints(run_dir, key):
        for kept in earlier.glob("step-*"):
            if _key_of(kept) == key:
                kept.replace(folder / kept.name)
    others = [other for other in folder.glob("step-*") if _key_of(other) not in (key, UNREADABLE)]
    if not others:
        return []
    latest = _key_of(max(others, key=lambda other: other.stat().st_mtime))
    shutil.rmtree(earlier, ignore_errors=True)
    earlier.mkdir()
    for other in others:
        if _key_of(other) == latest:
            other.replace(earlier / other.name)
        else:
            shutil.rmtree(other)
    return sorted(step_of(other) for other in earlier.glob("step-*"))


def _key_of(folder: Path) -> str:
    """The training that a checkpoint belongs to."""
    try:
        return read_manifest(folder).key
    except UserError:
        return UNREADABLE


def find_unreadable(run_dir: Path) -> list[Path]:
    """Checkpoints that do not say to which training they belong, so that none can go on from them."""
    return [folder for folder in sorted((run_dir / FOLDER).glob("step-*")) if _key_of(folder) == UNREADABLE]


def prune_checkpoints(run_dir: Path, progress: Progress, *, key: str, keep: int) -> None:
    """Remove what is neither among the latest `keep` nor the best.

    Checkpoints of later steps are those that the training could not go on from: they go too.
    """
    ours = [folder for folder in find_checkpoints(run_dir, key) if step_of(folder) <= progress.step]
    kept = {*ours[-keep:], *(folder for folder in ours if step_of(folder) == progress.best_step)}
    for folder in (run_dir / FOLDER).glob("step-*"):
        if folder not in kept:
            shutil.rmtree(folder)


def name_of(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder."""
    return int(folder.name.removeprefix("step-"))
