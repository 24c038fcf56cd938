"""The models of a server that answers before torch is imported: those libraries take seconds to load.

They load in a thread of their own from the start on, so that whoever asks a model waits for what is left of it, and
whoever sends a file or asks for a list does not wait at all.
"""

import importlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from kivnun.serving.answers import ModelAddress

if TYPE_CHECKING:
    from kivnun.serving.pool import ModelPool, OpenModel, PoolFacts


# In steps, so that a server which is stopped meanwhile need not wait for all of them.
STEPS = ("torch", "kivnun.models.load", "kivnun.models.attention", "kivnun.methods", "kivnun.serving.pool")


class LatePool:
    """A pool of models, as `ModelPool` is one.

    Args:
        make: Makes the pool once everything is imported.
    """

    def __init__(self, make: "Callable[[], ModelPool]") -> None:
        self._pool: Future[ModelPool] = Future()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, args=(make,), name="imports")
        self._thread.start()

    def _run(self, make: "Callable[[], ModelPool]") -> None:
        try:
            for name in STEPS:
                if self._is_closing:
                    self._pool.cancel()
                    return
                importlib.import_module(name)
            self._pool.set_result(make())
        except BaseException as error:  # noqa: BLE001 - it is raised again for whoever asks for a model
            self._pool.set_exception(error)

    def open(self, address: ModelAddress) -> "OpenModel":
        """The model of an address; blocks while it loads.

        Args:
            address: Where it lies.
        """
        return self._pool.result().open(address)

    def loaded(self, address: ModelAddress) -> "OpenModel | None":
        """The model of an address if it is in memory; never blocks.

        Args:
            address: Where it lies.
        """
        return self._pool.result().loaded(address) if self._pool.done() else None

    def facts(self) -> "PoolFacts | None":
        """What is in memory; None while nothing can be."""
        return self._pool.result().facts() if self._pool.done() else None

    def close(self) -> None:
        """End it; a library cannot be stopped in the middle of being loaded."""
        self._is_closing = True
        self._thread.join()
        if not self._pool.cancelled() and self._pool.exception() is None:
            self._pool.result().close()
