"""The models of a server that answers before torch is imported: those libraries take seconds to load.

They load in a thread of their own from the start on, so that whoever asks a model waits for what is left of it, and
whoever sends a file or asks for a list does not wait at all.
"""

import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kivnun.server.errors import log_failure
from kivnun.serving.answers import ModelAddress

if TYPE_CHECKING:
    from kivnun.serving.pool import ModelPool, OpenModel, PoolFacts


# In steps, so that a server which is stopped meanwhile need not wait for all of them.
STEPS = ("torch", "kivnun.models.load", "kivnun.models.attention", "kivnun.methods", "kivnun.serving.pool")


_LOADED = threading.Event()
_LOADED.set()


def wait_for_libraries() -> None:
    """Wait until nothing is imported in the background; called before a thread imports something large itself.

    Python does not let two threads import the modules of one package in different orders: one of them would find a
    module without the names that it is about to have.
    """
    _LOADED.wait()


class LatePool:
    """A pool of models, as `ModelPool` is one.

    Args:
        make: Makes the pool once everything is imported.
    """

    def __init__(self, make: "Callable[[], ModelPool]") -> None:
        self._make = make
        self._pool: ModelPool | None = None
        self._lock = threading.Lock()
        self._is_closing = False
        _LOADED.clear()
        self._thread = threading.Thread(target=self._import, name="imports")
        self._thread.start()

    def _import(self) -> None:
        try:
            for name in STEPS:
                if self._is_closing:
                    return
                importlib.import_module(name)
            self._ready()
        except Exception as error:  # noqa: BLE001 - whoever asks for a model tries again, and is told
            log_failure(error, "of imports")
        finally:
            _LOADED.set()

    def _ready(self) -> "ModelPool":
        with self._lock:
            if self._pool is None:
                self._pool = self._make()
            return self._pool

    def open(self, address: ModelAddress) -> "OpenModel":
        """The model of an address; blocks while it loads.

        Args:
            address: Where it lies.
        """
        wait_for_libraries()
        return self._ready().open(address)

    def loaded(self, address: ModelAddress) -> "OpenModel | None":
        """The model of an address if it is in memory; never blocks.

        Args:
            address: Where it lies.
        """
        return None if self._pool is None else self._pool.loaded(address)

    def facts(self) -> "PoolFacts | None":
        """What is in memory; None while nothing can be."""
        return None if self._pool is None else self._pool.facts()

    def close(self) -> None:
        """End it; a library cannot be stopped in the middle of being loaded."""
        self._is_closing = True
        self._thread.join()
        if self._pool is not None:
            self._pool.close()
