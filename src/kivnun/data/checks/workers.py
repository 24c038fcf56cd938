"""Worker processes for large files: blocks go in, small results come out in the same order, few are under way."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import Self, TypeVar

from kivnun.errors import UserError

BLOCKS_PER_WORKER = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Processes that are started when they are first needed, and are gone at the end, whatever happens.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """The workers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; what they are just doing takes a fraction of a second."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, do: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Results in the order of the tasks; a task is only taken when a process will soon be free for it.

        Raises:
            UserError: `memory-full` if a process ended too early: the system kills one when memory runs out.
        """
        if self._pool is None:
            # `spawn`, since a fork of a process with threads (numpy, pyarrow, tokenizers) may hang.
            self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), initializer=_settle_in)
        under_way: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                with _interrupts_held():
                    under_way.append(self._pool.submit(do, task))
                if len(under_way) >= BLOCKS_PER_WORKER * self.count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "memory-full",
                "a worker process was ended before its work was done, most likely because memory ran out",
                hint="close other programs, or check the files one by one",
            ) from error


@contextmanager
def _interrupts_held() -> Generator[None]:
    """Ctrl-C waits while a task is handed over, which may start a process: a half-started one dies with a traceback.

    Processes inherit the blocked signal, and so never see one that is meant for the main process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


def count_processors() -> int:
    """One for each processor that this process may use."""
    return len(os.sched_getaffinity(0))


def _settle_in() -> None:
    """Leave Ctrl-C to the main process, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
