"""How many requests of batches are asked at once: a share of the rows while nobody else asks, and few beside others.

Answers of one model share its steps, so that more at once are faster together and each of them slower.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kivnun.server.service import Service

BESIDE_OTHERS = 4
SHARE_OF_ROWS = 4
SECONDS_BETWEEN_LOOKS = 0.02


class Places:
    """The places of all batches.

    Args:
        service: Of the server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._most = most_places(service.settings.max_rows)
        self._line = asyncio.Lock()
        self._taken = 0

    @property
    def most(self) -> int:
        """Those that there are at most."""
        return self._most

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """A place, once there is one; who came first has the next."""
        async with self._line:
            # One looks, and the others stand in line behind it.
            while not self._has_one():
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def _has_one(self) -> bool:
        facts = self._service.pool.facts()
        running, waiting = (0, 0) if facts is None else (facts.running, facts.waiting)
        return not waiting and self._taken < count_places(self._most, others=running - self._taken)


def most_places(max_rows: int) -> int:
    """Requests of batches at once where nobody else asks.

    Args:
        max_rows: Answers that a model may have side by side.
    """
    return max(BESIDE_OTHERS, max_rows // SHARE_OF_ROWS)


def count_places(most: int, *, others: int) -> int:
    """Requests of batches at once.

    Args:
        most: Where nobody else asks.
        others: Answers on their way that are no batch's.
    """
    return BESIDE_OTHERS if others > 0 else most
