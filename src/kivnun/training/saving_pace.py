"""When a training saves: by steps or by seconds, as its recipe says."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kivnun.recipe.training import TrainingSection

SAVE_TIME_SHARE = 0.05
"""Of a training that saves by seconds, checkpoints take about this much at most."""


class SavingPace:
    """Says when the next checkpoint is due.

    Args:
        settings: The recipe's `training` section.
    """

    def __init__(self, settings: TrainingSection) -> None:
        self._every_steps, self._every_seconds = settings.save_every_steps, settings.save_every_seconds
        self._saved_at, self._cost = time.monotonic(), 0.0

    def is_due(self, step: int) -> bool:
        """Whether this step should be saved.

        Args:
            step: The step that has just been done.
        """
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return time.monotonic() - self._saved_at >= max(self._every_seconds, self._cost / SAVE_TIME_SHARE)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around what saves."""
        began = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began
