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
    nothing is held back, nor is a signal that somebody else handles or ignores: `nohup` and shells in the background
    ignore Ctrl-C, but SIGTERM is held back there too.

    Raises:
        KeyboardInterrupt: At the end of the block, if one came while the block ran.
    """
    came = threading.Event()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    held = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    if threading.current_thread() is not threading.main_thread():
        held = {}

    def restore() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)

    def remember(_signal: int, _frame: FrameType | None) -> None:
        came.set()
        restore()

    for number in held:
        signal.signal(number, remember)
    try:
        yield came.is_set
    finally:
        restore()
    if came.is_set():
        raise KeyboardInterrupt
