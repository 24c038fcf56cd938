"""Models of the latest epochs: each in a folder of its own that is whole or absent, written as the final model is."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivnun.errors import UserError
from kivnun.runs import read_manifest, stage_done, write_stage
from kivnun.runs.atomic import PARTIAL_SUFFIX
from kivnun.training.checkpoint import name_of, step_of
from kivnun.training.loop import StepReport
from kivnun.training.parallel import ALONE, Parallel

FOLDER = "epochs"

Snapshot = Callable[[], Callable[[Path], None]]
"""Takes the model as it is and gives what writes it into a folder. Of several processes each must ask, and the first
one writes."""


@dataclass(frozen=True)
class EpochModels:
    """Which epochs' models are kept, and where.

    Attributes:
        run_dir: The run folder.
        key: The training that they belong to.
        keep: How many of the latest ones are kept.
        snapshot: Takes the model.
        parallel: The processes that train together.
    """

    run_dir: Path
    key: str
    keep: int
    snapshot: Snapshot
    parallel: Parallel = ALONE

    def write(self, step: int) -> bool:
        """Keep the model of this step, unless it is there already or later ones leave it no place.

        A training that goes on from a checkpoint comes to steps again whose models it kept before it was stopped.
        They are of the same weights, so they stay as they are.

        Returns:
            Whether this step's model is kept.

        Raises:
            UserError: `disk-full` or `adapter-invalid`, in every process, if it is so for one.
        """
        is_kept, is_there = self.parallel.gather(self._look(step) if self.parallel.leads else None)[0]
        if not is_kept or is_there:
            return bool(is_kept)
        write = self.snapshot()
        self.parallel.together(lambda: self._write(step, write))
        return True

    def tidy(self) -> None:
        """Remove the models of another training, and more than are to be kept."""
        if self.parallel.leads:
            self._keep(self._latest(self._steps()) if self.keep else [])

    def _look(self, step: int) -> tuple[bool, bool]:
        """Whether a step's model is among those to keep, and whether it is there and whole."""
        is_kept = step in self._latest([*self._steps(), step])
        return is_kept, is_kept and stage_done(self.run_dir / FOLDER, name_of(step), self.key)

    def _write(self, step: int, write: Callable[[Path], None]) -> None:
        if not self.parallel.leads:
            return
        # First, so that there are never more than those to keep.
        self._keep(self._latest([*self._steps(), step]))
        with write_stage(self.run_dir / FOLDER, name_of(step), kind="epoch", key=self.key) as partial:
            write(partial)

    def _latest(self, steps: Sequence[int]) -> list[int]:
        return sorted(set(steps))[-self.keep :]

    def _steps(self) -> list[int]:
        """Steps of the models of this training."""
        found = (self.run_dir / FOLDER).glob("step-*")
        return [step_of(folder) for folder in found if _key_of(folder) == self.key]

    def _keep(self, steps: Sequence[int]) -> None:
        """Remove every model but those of some steps of this training."""
        for folder in sorted((self.run_dir / FOLDER).glob("step-*")):
            if step_of(folder) not in steps or _key_of(folder) != self.key:
                # Under another name, so that a folder that is half removed is no model; the next start sweeps it.
                leaving = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
                shutil.rmtree(leaving, ignore_errors=True)
                folder.replace(leaving)
                shutil.rmtree(leaving)


def describe_epoch(report: StepReport, measured: Mapping[str, float]) -> dict[str, object]:
    """The fields of an `epoch_kept` event.

    Args:
        report: The step with which the epoch ended.
        measured: What the validation after this very step measured; nothing where there was none.
    """
    return {
        "step": report.step,
        "epoch": report.epoch,
        "folder": name_of(report.step),
        "loss": report.loss,
        **report.metrics,
        **{f"validation_{name}": value for name, value in measured.items()},
    }


def _key_of(folder: Path) -> str | None:
    """The training that a model belongs to; None where it does not say so."""
    try:
        return read_manifest(folder).key
    except UserError:
        return None
