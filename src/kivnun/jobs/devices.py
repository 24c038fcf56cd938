"""Which GPU a job may use: one job each, held by a lock that the system gives free when its holder dies."""

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def take_device(folder: Path, place: str, gpus: Sequence[str]) -> Generator[str | None]:
    """Hold the first GPU that no other worker of this machine holds; None where all are taken, or there is none.

    Args:
        folder: Where the locks lie.
        place: Tells this machine from others that share the folder.
        gpus: The devices.
    """
    for gpu in gpus:
        path = folder / f".gpu-{place.strip('/').replace('/', '-')}-{gpu}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield gpu
        finally:
            os.close(descriptor)
        return
    yield None
