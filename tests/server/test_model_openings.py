"""While a model loads, those who wait for it hold nothing that other requests need."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kivnun.database.open import open_database, sqlite_url
from kivnun.database.projects import ensure_defaults
from kivnun.errors import UserError
from kivnun.server.app import create_app
from kivnun.server.counters import Counters
from kivnun.server.folders import DataFolder
from kivnun.server.limits import Limits
from kivnun.server.openings import MOST_THREADS, ModelOpenings
from kivnun.server.service import ServeSettings, Service
from kivnun.serving.answers import ModelAddress

SECONDS = 30
# As many as the threads that all other requests share.
MANY = 45


class SlowPool:
    """Models that are in memory when they are let in."""

    def __init__(self) -> None:
        self.may_load = threading.Event()
        self.asked: list[ModelAddress] = []
        self.models: dict[ModelAddress, object] = {}
        self.error: UserError | None = None

    def loaded(self, address: ModelAddress) -> object | None:
        return self.models.get(address)

    def open(self, address: ModelAddress) -> object:
        self.asked.append(address)
        assert self.may_load.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return self.models.setdefault(address, object())

    def facts(self) -> None:
        return None


@pytest.fixture
def pool() -> Iterator[SlowPool]:
    made = SlowPool()
    yield made
    made.may_load.set()


def address(name: str) -> ModelAddress:
    return ModelAddress(base=name)


async def until_asked(pool: SlowPool, count: int) -> None:
    end = time.monotonic() + SECONDS
    while len(pool.asked) < count:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS))


def test_all_who_ask_for_a_model_wait_for_one_load_and_those_who_leave_do_not_end_it(pool: SlowPool) -> None:
    async def ask() -> None:
        openings = ModelOpenings()
        waiting = [asyncio.create_task(openings.open(pool, address("a"))) for _ in range(MANY)]
        await until_asked(pool, 1)
        waiting[0].cancel()
        waiting[7].cancel()
        pool.may_load.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found].count(asyncio.CancelledError) == 2
        assert {id(each) for number, each in enumerate(found) if number not in (0, 7)} == {
            id(pool.models[address("a")])
        }
        assert pool.asked == [address("a")]
        assert await openings.open(pool, address("a")) is pool.models[address("a")]
        assert len(pool.asked) == 1

    run(ask())


def test_a_load_that_fails_is_told_to_all_and_tried_again_by_the_next(pool: SlowPool) -> None:
    async def ask() -> None:
        openings = ModelOpenings()
        pool.error = UserError("model-invalid", "no model", hint="take another one")
        waiting = [asyncio.create_task(openings.open(pool, address("a"))) for _ in range(5)]
        await until_asked(pool, 1)
        pool.may_load.set()
        assert await asyncio.gather(*waiting, return_exceptions=True) == [pool.error] * 5
        pool.error = None
        assert await openings.open(pool, address("a")) is pool.models[address("a")]
        assert len(pool.asked) == 2

    run(ask())


def test_many_models_at_once_take_few_threads(pool: SlowPool) -> None:
    async def ask() -> None:
        openings = ModelOpenings()
        waiting = [asyncio.create_task(openings.open(pool, address(str(number)))) for number in range(MANY)]
        await until_asked(pool, MOST_THREADS)
        await asyncio.sleep(0.05)
        assert len(pool.asked) == MOST_THREADS
        assert await asyncio.to_thread(lambda: "others go on") == "others go on"
        pool.may_load.set()
        assert len(set(map(id, await asyncio.gather(*waiting)))) == MANY

    run(ask())


def test_the_server_answers_other_requests_while_many_wait_for_a_model(pool: SlowPool, tmp_path: Path) -> None:
    async def ask() -> None:
        DataFolder(tmp_path).make()
        database = open_database(sqlite_url(tmp_path))
        ensure_defaults(database)
        settings = ServeSettings(tmp_path, require_keys=False)
        app = create_app(Service(settings, database, pool, Limits(), Counters()))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 1))
        pool.error = UserError("model-invalid", "no model", hint="take another one")
        asked = {"model": "bundled", "messages": [{"role": "user", "content": "Hi"}]}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=SECONDS) as client:
            chats = [asyncio.create_task(client.post("/v1/chat/completions", json=asked)) for _ in range(MANY)]
            await until_asked(pool, 1)
            for path in ("/health", "/v1/models", "/v1/files"):
                assert (await client.get(path)).status_code == 200
            assert not any(chat.done() for chat in chats)
            pool.may_load.set()
            assert {reply.status_code for reply in await asyncio.gather(*chats)} != {200}
        database.close()

    run(ask())
