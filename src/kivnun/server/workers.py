"""The processes that run jobs: started with the server, started again when one dies, and never outliving it."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
# A worker that lived this long was not broken from the start.
SOUND_SECONDS = 60.0
STOP_SECONDS = 60.0
# Runs before the worker itself: Linux ends it when the server dies, however that happens, and asks it to save first.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Workers:
    """The worker processes of a server.

    Args:
        command: What each runs.
        wanted: How many.
        log_file: Where they write what they say.
        log: Told when one dies.
        environment: What they find in theirs beside this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        wanted: int,
        log_file: Path,
        log: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self.wanted = wanted
        self._command = command
        self._log_file = log_file
        self._log = log
        self._environment = {**os.environ, **environment}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def alive(self) -> int:
        """How many run now."""
        return sum(process.returncode is None for process in self._processes.values())

    def start(self) -> None:
        """Begin; the running event loop looks after them from now on."""
        self._tasks = [asyncio.create_task(self._keep_alive(number)) for number in range(self.wanted)]

    def ask_to_stop(self) -> None:
        """Let each save what it computes, and end; returns at once."""
        self._stopping = True
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End each at once, and what it computes; its job goes on from the last checkpoint, with another worker."""
        self._stopping = True
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()

    async def stop(self) -> None:
        """Wait until all have ended; those that take too long are killed, and lose what was not yet saved."""
        self.ask_to_stop()
        running = [process for process in self._processes.values() if process.returncode is None]
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for process in running:
                    await process.wait()
        except TimeoutError:
            for process in running:
                if process.returncode is None:
                    self._log(f"worker process {process.pid} did not end within {STOP_SECONDS:.0f} s and is killed")
                    process.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_alive(self, number: int) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping:
            began = time.monotonic()
            try:
                status = await self._run(number)
            except OSError as error:
                # No memory or no process is left for it now; there may be later.
                status = str(error)
            if self._stopping:
                return
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > SOUND_SECONDS else pause
            self._log(
                f"worker process {number} ended with status {status}; it starts again in {pause:.1f} s "
                f"(what it said is in {self._log_file})"
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run(self, number: int) -> int:
        # The launcher is bound to the thread that started it, which is the one of the event loop: the main one.
        command = [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *self._command]
        with self._log_file.open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._environment,
                start_new_session=True,
            )
        self._processes[number] = process
        if self._stopping:
            with suppress(ProcessLookupError):
                process.terminate()
        return await process.wait()
