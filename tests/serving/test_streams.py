"""Answers on an event loop: whole, in order, one wake-up a step for all of them, and stopped when nobody listens."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest
from heard import Heard, ask_for
from tiny_llama import END, load_tiny_llama

from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.serving.answers import BusyError, Ended, ModelAddress, Token
from kivnun.serving.pool import ModelPool, OpenModel
from kivnun.serving.streams import answer


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often another thread wakes it."""

    num_wakes = 0

    def call_soon_threadsafe(self, callback, *args, context=None):
        self.num_wakes += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def run(work: Coroutine):
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        return runner.run(work)


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    made = ModelPool(max_rows=64, max_waiting=8, memory_bytes=1 << 28)
    yield made
    made.close()


@pytest.fixture
def model(pool, tiny_folder: Path) -> OpenModel:
    return pool.open(ModelAddress(str(tiny_folder)))


async def read(model: OpenModel, prompt, num_tokens: int) -> list[Token | Ended]:
    return [told async for told in answer(model, ask_for(prompt, num_tokens))]


def test_streams_side_by_side_are_whole_and_wake_the_loop_once_a_step(model, prompts, tiny_folder):
    async def all_at_once() -> tuple[list, int]:
        before = asyncio.get_running_loop().num_wakes
        told = await asyncio.gather(*[read(model, prompts[number % 12], 40) for number in range(48)])
        return told, asyncio.get_running_loop().num_wakes - before

    told, num_wakes = run(all_at_once())
    wanted = TorchEngine(load_tiny_llama(tiny_folder), pad_id=END).generate(
        [prompts[number % 12] for number in range(48)], max_new_tokens=40, stop_ids=frozenset()
    )
    for each, right in zip(told, wanted, strict=True):
        assert tuple(token.token_id for token in each[:-1]) == right.token_ids
        assert isinstance(each[-1], Ended)
    # 39 steps and the reading of prompts, which may take several turns; 1,968 things were told.
    assert num_wakes < 150


def test_a_stream_that_is_closed_stops_computing(model, pool, prompts):
    async def close_early() -> None:
        stream = answer(model, ask_for(prompts[0], 90))
        assert isinstance(await anext(stream), Token)
        await stream.aclose()
        for _ in range(200):
            if pool.facts().running == 0:
                return
            await asyncio.sleep(0.01)

    run(close_early())
    assert pool.facts().running == 0
    assert pool.facts().models[0].waiting == 0


def test_a_task_that_is_cancelled_stops_computing_too(model, pool, prompts):
    async def cancel() -> None:
        task = asyncio.create_task(read(model, prompts[0], 94))
        other = asyncio.create_task(read(model, prompts[1], 60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await other) == 61

    run(cancel())
    assert pool.facts().running == 0


def test_refusals_come_before_the_first_token(model, prompts):
    async def ask(prompt) -> None:
        await anext(answer(model, ask_for(prompt)))

    with pytest.raises(UserError) as caught:
        run(ask([]))
    assert caught.value.code == "prompt-invalid"


def test_a_full_server_says_so(tiny_folder, prompts):
    pool = ModelPool(max_rows=1, max_waiting=0, memory_bytes=1 << 28)
    model = pool.open(ModelAddress(str(tiny_folder)))
    first = Heard()
    running = model.ask(ask_for(prompts[0], 94), first)
    first.wait_for(1)

    async def ask() -> None:
        await anext(answer(model, ask_for(prompts[1])))

    with pytest.raises(BusyError):
        run(ask())
    running.cancel()
    pool.close()


def test_what_ends_an_answer_is_raised_in_its_stream(model, prompts):
    async def ask() -> None:
        await anext(answer(model, ask_for(prompts[0], logit_bias={100_000: 1.0})))

    with pytest.raises(UserError) as caught:
        run(ask())
    assert caught.value.code == "sampling-invalid"


def test_several_loops_may_read_at_once(model, prompts):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(run, read(model, prompts[number % 3], 20)) for number in range(8)]
        told = [future.result() for future in futures]
    for number in range(8):
        assert told[number][:-1] == told[number % 3][:-1]
        assert len(told[number]) == 21
