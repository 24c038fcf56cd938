"""Weights & Biases (extra `wandb`): offline files in the run folder, or the service where your environment asks for it.

It is asked for by `WANDB_API_KEY`, or by `WANDB_MODE=online`; without them nothing goes over the network, and
`wandb sync` sends the files later. Its reports of errors and its notes on the machine are off. A training is one W&B
run, whose id is made from its key and folder, so that a resumed one goes on in it, and no step is sent twice.
"""

import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal

from kivnun.tracking.points import Point, Subject, Training

if TYPE_CHECKING:
    import wandb

PROJECT = "kivnun"
_QUIET: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
}


class WandbTracker:
    """Sends numbers to Weights & Biases."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._run: wandb.Run | None = None
        self._sent = 0

    def start(self, training: Training) -> None:
        """Begin the run, or go on in it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: PLC0415 - an extra, and a second

        self.finish()
        folder = self._subject.folder
        run_id = hashlib.sha256(f"{training.key} {folder.resolve()}".encode()).hexdigest()[:16]
        has_earlier = any((folder / "wandb").glob(f"*run-*-{run_id}*"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or self._subject.name,
            id=run_id,
            dir=str(folder),
            mode=_mode(),
            resume="allow",
            config=dict(self._subject.settings),
            settings=wandb.Settings(**_QUIET),
        )
        # The run's own count is 0 offline, where every attempt writes a folder of its own.
        self._sent = max(training.reached if has_earlier else 0, self._run.step - 1)
        for point in training.kept:
            self.log(point)

    def log(self, point: Point) -> None:
        """Take numbers; a process of wandb's sends them."""
        if self._run is not None and point.step > self._sent:
            self._run.log(dict(point.values), step=point.step)

    def finish(self) -> None:
        """Wait until everything is sent, or handed to the process that writes the files offline."""
        if self._run is not None:
            self._run.finish()
        self._run = None


def _mode() -> Literal["online", "offline", "disabled"]:
    """The network only where the user's environment asks for it."""
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode == "online" or (not mode and os.environ.get("WANDB_API_KEY")):
        return "online"
    return "disabled" if mode == "disabled" else "offline"
