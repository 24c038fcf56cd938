"""This process among those of a run, and what the first one tells the others of its stages."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Protocol

from kivnun.errors import UserError
from kivnun.training.parallel import ALONE, Parallel

_POLL_SECONDS = 0.1


class Store(Protocol):
    """What is used of torch's key-value store, which `torchrun` holds for all processes."""

    def set(self, key: str, value: str) -> None:
        """Keep a value."""
        ...

    def get(self, key: str) -> bytes:
        """A value."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether the keys have values."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Add to a number and return it."""
        ...


@dataclass(frozen=True)
class Notices:
    """What the first process tells the others where they do not work together: which stages it makes.

    Attributes:
        store: Where notices are kept; None for a process alone.
    """

    store: Store | None = None

    def begin(self, stage: str, key: str, *, is_done: bool) -> None:
        """Tell that a stage is made now from the inputs of this key, or is done already."""
        self._set(f"{stage}/begins", json.dumps([key, is_done]))

    def finish(self, stage: str) -> None:
        """Tell that a stage's folder is in place."""
        self._set(f"{stage}/finished", "")

    def wait_for(self, stage: str, key: str) -> bool:
        """Wait until the first process begins a stage, and say whether it is done already.

        Raises:
            UserError: `processes-differ` where this process would make it from other inputs.
        """
        theirs, is_done = json.loads(self._get(f"{stage}/begins"))
        if theirs != key:
            raise UserError(
                "processes-differ",
                f"{socket.gethostname()} would make the stage {stage} from other inputs than the first process",
                hint="every machine needs the same recipe, data files, base model, precision and library versions",
            )
        return bool(is_done)

    def wait_for_end(self, stage: str) -> None:
        """Wait until a stage's folder is in place."""
        self._get(f"{stage}/finished")

    def _set(self, name: str, value: str) -> None:
        if self.store is not None:
            self.store.set(f"stage/{name}", value)

    def _get(self, name: str) -> str:
        """A value, however long it takes to come; should the first process end, `torchrun` ends all."""
        if self.store is None:
            raise AssertionError("a process alone waits for nobody")
        while not self.store.check([f"stage/{name}"]):
            time.sleep(_POLL_SECONDS)
        return self.store.get(f"stage/{name}").decode()


@dataclass(frozen=True)
class Joined:
    """This process among those of a run.

    Attributes:
        parallel: How they share the work.
        notices: What the first one tells the others.
    """

    parallel: Parallel = ALONE
    notices: Notices = Notices()


BY_ITSELF = Joined()
"""A process that trains alone."""
