"""Clients that send slowly, over real sockets: none holds a connection for ever, and none that sends on is cut off."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from kivnun.server.connections import Connection
from kivnun.server.counters import Counters
from kivnun.server.middleware import RequestFrame

HEAD_SECONDS, BODY_SECONDS, KEEP_ALIVE_SECONDS = 0.5, 0.6, 1
PATIENCE_SECONDS = 10
GOOD = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Quick(Connection):
    head_seconds = HEAD_SECONDS


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Counts the bytes of a file; whatever else comes is answered before its body is read."""
    size = 0
    if scope["path"] == "/v1/files":
        try:
            async for part in Request(scope, receive).stream():
                size += len(part)
        except ClientDisconnect:
            return
    text = json.dumps({"bytes": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[uvicorn.Server, int]]:
    app = RequestFrame(answer, Counters(), local_only=True, max_upload_bytes=1 << 40, body_idle_seconds=BODY_SECONDS)
    config = uvicorn.Config(
        app, port=0, http=Quick, ws="none", lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    await running


def drive(client: Callable[[Reader, Writer], Coroutine[Any, Any, Any]]) -> Any:
    """What a client of a running server finds; the server must hold no connection when it is done."""

    async def run() -> Any:
        async with serving() as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await client(reader, writer)
                while server.server_state.connections:
                    await asyncio.sleep(0.01)
            writer.close()
            return found

    return asyncio.run(run())


async def read_reply(reader: Reader) -> tuple[int, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def trickle(writer: Writer, data: bytes, seconds: float) -> None:
    for byte in data:
        try:
            writer.write(bytes([byte]))
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("before", [b"", GOOD], ids=["at first", "after an answer"])
@pytest.mark.parametrize("pause", [60, 0.05], ids=["silent", "byte by byte"])
def test_a_head_must_be_whole_within_seconds_however_it_comes(before: bytes, pause: float) -> None:
    async def client(reader: Reader, writer: Writer) -> Any:
        writer.write(before)
        if before:
            assert (await read_reply(reader))[0] == 200
        began = time.monotonic()
        sending = asyncio.create_task(trickle(writer, GOOD[:-2] + b"x-more: " + b"y" * 500, pause))
        reply = await read_reply(reader)
        assert await reader.read() == b""
        sending.cancel()
        return reply, time.monotonic() - began

    (status, body), seconds = drive(client)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert HEAD_SECONDS <= seconds < 4 * HEAD_SECONDS


def test_a_client_that_says_nothing_is_sent_away_without_a_word() -> None:
    async def client(reader: Reader, _: Writer) -> bytes:
        return await reader.read()

    assert drive(client) == b""


def test_a_head_that_comes_in_time_is_answered_though_it_comes_in_pieces_again_and_again() -> None:
    """Each head has its own time: three together take longer than one may."""

    async def client(reader: Reader, writer: Writer) -> list[int]:
        statuses = []
        for _ in range(3):
            for start in range(0, len(GOOD), 12):
                writer.write(GOOD[start : start + 12])
                await asyncio.sleep(0.06)
            statuses.append((await read_reply(reader))[0])
        return statuses

    assert drive(client) == [200, 200, 200]


def test_a_body_may_take_long_and_must_not_stop() -> None:
    """A file of many gigabytes on a slow line comes through; one whose client falls silent does not wait for it."""
    post = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"

    async def slow(reader: Reader, writer: Writer) -> Any:
        writer.write(post % 40)
        await trickle(writer, b"x" * 40, 0.05)
        return await read_reply(reader)

    async def silent(reader: Reader, writer: Writer) -> Any:
        writer.write(post % 40 + b"x" * 39)
        reply = await read_reply(reader)
        assert await reader.read() == b""
        return reply

    assert 2 * max(HEAD_SECONDS, BODY_SECONDS) < 40 * 0.05
    assert drive(slow) == (200, {"bytes": 40})
    status, body = drive(silent)
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_what_is_left_of_a_body_that_was_answered_holds_no_connection() -> None:
    """Uvicorn forgets its own timer with the first byte that comes after the reply."""

    async def client(reader: Reader, writer: Writer) -> int:
        writer.write(b"POST /v1/uploads/upload_1/parts HTTP/1.1\r\nhost: localhost\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        status, _ = await read_reply(reader)
        sending = asyncio.create_task(trickle(writer, b"5\r\nhello\r\n" * 100, 0.02))
        assert await reader.read() == b""
        sending.cancel()
        return status

    assert drive(client) == 200
