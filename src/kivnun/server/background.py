"""What a server does beside its requests: endless tasks, begun again with growing pauses should one fail."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from kivnun.server.errors import log_failure
from kivnun.server.service import Service

Task = Coroutine[Any, Any, None]
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


@asynccontextmanager
async def keep_running(make: Callable[[Service], Task], service: Service) -> AsyncGenerator[None]:
    """A task that runs until the block ends; it is cancelled then, and waited for.

    Args:
        make: Begins the task.
        service: What it works on.
    """
    task = asyncio.create_task(_run_again_and_again(make, service))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _run_again_and_again(make: Callable[[Service], Task], service: Service) -> None:
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            await make(service)
        except Exception as error:  # noqa: BLE001 - it must not end with the first thing that goes wrong
            log_failure(error, make.__name__)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
