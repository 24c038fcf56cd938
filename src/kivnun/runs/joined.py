"""A run folder as the other processes of the same training see it: they read it, and the first process writes it."""

from collections.abc import Mapping
from pathlib import Path

from kivnun.runs.store import Run

_NO_FIELDS: Mapping[str, object] = {}


class JoinedRun(Run):
    """A run that another process holds; what is logged here is dropped, since that one logs the same.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        # Neither log nor lock is opened: both are the other process's.
        object.__setattr__(self, "folder", folder)

    def log(self, event: str, fields: Mapping[str, object] = _NO_FIELDS) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing: there is nothing to give free."""
