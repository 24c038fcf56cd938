"""Models on their way into memory: whoever asks for one waits for the same load, without a thread of his own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kivnun.serving.answers import ModelAddress

if TYPE_CHECKING:
    from kivnun.server.late_pool import LatePool
    from kivnun.serving.pool import ModelPool, OpenModel

# Of different models. The pool loads one at a time; the others find out what they need, or wait in line.
MOST_THREADS = 8


class ModelOpenings:
    """The loads of one server; used from its event loop alone."""

    def __init__(self) -> None:
        self._loads: dict[ModelAddress, asyncio.Task[OpenModel]] = {}
        self._threads = ThreadPoolExecutor(MOST_THREADS, "models")

    async def open(self, pool: "ModelPool | LatePool", address: ModelAddress) -> "OpenModel":
        """The model of an address; who goes away meanwhile does not stop the load for the others.

        Args:
            pool: The models in memory.
            address: Of the model.

        Raises:
            UserError: It cannot be loaded.
            BusyError: There is no memory for it now.
        """
        model = pool.loaded(address)
        if model is not None:
            return model
        load = self._loads.get(address)
        if load is None:
            load = self._loads[address] = asyncio.create_task(self._load(pool, address))
            load.add_done_callback(lambda done: self._forget(address, done))
        return await asyncio.shield(load)

    async def _load(self, pool: "ModelPool | LatePool", address: ModelAddress) -> "OpenModel":
        return await asyncio.wrap_future(self._threads.submit(pool.open, address))

    def _forget(self, address: ModelAddress, load: "asyncio.Task[OpenModel]") -> None:
        del self._loads[address]
        if not load.cancelled():
            # Looked at, so that asyncio does not complain where everybody has gone away.
            load.exception()
