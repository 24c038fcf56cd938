"""One writer at a time in a folder; the lock falls with its process, however that ends."""

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kivnun.errors import UserError

WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.01


@contextmanager
def only_writer(path: Path, wait_seconds: float = WAIT_SECONDS) -> Generator[None]:
    """Hold the lock of a file, which is made where there is none.

    Raises:
        UserError: `store-failed`: another process holds it all the time.
    """
    deadline = time.monotonic() + wait_seconds
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    hint = "wait until the other process ends, or end it"
                    problem = f"another process keeps writing to the index in {path.parent}"
                    raise UserError("store-failed", problem, hint=hint) from error
                time.sleep(_POLL_SECONDS)
        yield
