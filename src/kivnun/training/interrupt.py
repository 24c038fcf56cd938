"""Ctrl-C and SIGTERM that wait for the end of a step, so that what is saved is never half of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C or SIGTERM and say whether it came; the second one does not wait.

    What came is raised when the block ends, as Ctrl-C. Outside the main thread, where Python handles no signals,
    nothing is held back.

    Raises:
        KeyboardInterrupt: At the end of the block, if one came while the block ran.
    """
    came = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        # Whoever set a handler of their own, or runs us in a thread, decides what an interruption means.
        yield came.is_set
        return
    terminate = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def restore() -> None:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, terminate)

    def remember(_signal: int, _frame: FrameType | None) -> None:
        came.set()
        restore()

    signal.signal(signal.SIGINT, remember)
    signal.signal(signal.SIGTERM, remember)
    try:
        yield came.is_set
    finally:
        restore()
    if came.is_set():
        raise KeyboardInterrupt
