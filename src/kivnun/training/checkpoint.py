"""Checkpoints: all that a run needs to go on as if it had never stopped, in one folder that is whole or absent."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.runs import read_manifest, verify_artifact, write_stage
from kivnun.training.optimizer import MasterWeights

FOLDER = "checkpoints"
_WEIGHTS = "state.safetensors"
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


def save_checkpoint(run_dir: Path, weights: MasterWeights, progress: Progress, *, key: str) -> Path:
    """Write the checkpoint of a step; a full disk or a kill leaves the earlier ones as they were."""
    name = name_of(progress.step)
    with write_stage(run_dir / FOLDER, name, kind="checkpoint", key=key) as folder:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors().items()}
        save_file(tensors, folder / _WEIGHTS)
        (folder / _PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n", "utf-8")
    return run_dir / FOLDER / name


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


def load_checkpoint(folder: Path, weights: MasterWeights) -> Progress:
    """Check the hashes of a checkpoint, and of the best one that its training would end with, and restore it.

    Raises:
        UserError: `artifact-damaged`, or `run-missing` without the best one; the weights are as they were.
    """
    key = verify_artifact(folder).key
    stored = json.loads((folder / _PROGRESS).read_text("utf-8"))
    progress = Progress(**{**stored, "history": tuple(map(tuple, stored["history"]))})
    if progress.best_step is not None and progress.best_step != progress.step:
        best = folder.with_name(name_of(progress.best_step))
        if verify_artifact(best).key != key:
            raise UserError(
                "artifact-damaged",
                f"{best} belongs to another training than {folder}",
                hint=f"remove {folder} and give the same command again",
            )
    try:
        weights.load_tensors(load_file(folder / _WEIGHTS))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(
            "artifact-damaged",
            f"{folder} does not fit the model: {error}",
            hint=f"remove {folder} and give the same command again",
        ) from error
    return progress


def prune_checkpoints(run_dir: Path, progress: Progress, *, key: str, keep: int) -> None:
    """Remove what is neither among the latest `keep` nor the best, and all checkpoints of other trainings.

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
