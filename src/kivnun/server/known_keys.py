"""Keys that were looked up a moment ago, so that a busy client's requests do not each ask the database."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kivnun.database.keys import hash_secret

if TYPE_CHECKING:
    from kivnun.server.callers import Caller

# A revoked key, or a changed quota, holds a second later at the latest.
SECONDS = 0.5
MAX_KEYS = 10_000


class KnownKeys:
    """Callers by the hashes of their keys; unknown keys are never remembered.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._callers: dict[str, tuple[Caller, float]] = {}
        self._lock = threading.Lock()

    def find(self, secret: str) -> "Caller | None":
        """Who came with this key within the last half second."""
        with self._lock:
            caller, until = self._callers.get(hash_secret(secret), (None, 0.0))
        return caller if self._clock() < until else None

    def now(self) -> float:
        """The moment that a lookup begins at: what it finds may be old by the time that it ends."""
        return self._clock()

    def remember(self, secret: str, caller: "Caller", since: float, seconds: float = SECONDS) -> None:
        """Keep a caller for a moment, or for less where the key ends before that.

        Args:
            secret: What the caller came with.
            caller: Who it is.
            since: When the lookup began.
            seconds: How long the key was still good for then.
        """
        now = self._clock()
        with self._lock:
            if len(self._callers) >= MAX_KEYS:
                self._callers = {key: known for key, known in self._callers.items() if known[1] > now}
            if len(self._callers) < MAX_KEYS:
                self._callers[hash_secret(secret)] = (caller, since + min(seconds, SECONDS))
