"""Requests that the server makes of itself in a client's name: the same application as over HTTP, without a socket."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

from kivnun.server.callers import Caller


@dataclass(frozen=True)
class Reply:
    """What a route answered.

    Attributes:
        status: Of HTTP.
        headers: In small letters.
        body: Of the reply, whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class OpenReply:
    """What a route begins to answer.

    Attributes:
        status: Of HTTP.
        headers: In small letters.
        chunks: The body, as it comes.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes, None]


async def ask(app: ASGIApp, caller: Caller, path: str, body: Mapping[str, Any]) -> Reply:
    """Post a request and wait for the whole answer; being cancelled cancels the request.

    Args:
        app: The application.
        caller: In whose name.
        path: Such as `/v1/embeddings`.
        body: What is asked.
    """
    async with open_reply(app, caller, path, body) as reply:
        return Reply(reply.status, reply.headers, b"".join([chunk async for chunk in reply.chunks]))


@asynccontextmanager
async def open_reply(
    app: ASGIApp, caller: Caller, path: str, body: Mapping[str, Any]
) -> AsyncGenerator[OpenReply, None]:
    """Post a request; the block ends it, and stops what is still computed for it.

    Args:
        app: The application.
        caller: In whose name.
        path: Such as `/v1/chat/completions`.
        body: What is asked.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    content = orjson.dumps(body)

    async def run() -> None:
        try:
            await app(_make_scope(caller, path, len(content)), _receiver(content), sent.put)
        finally:
            sent.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        start = await sent.get()
        if start is None:
            await task
            raise AssertionError(f"{path} ended without a reply")
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
        async with aclosing(_read_chunks(sent)) as chunks:
            yield OpenReply(start["status"], headers, chunks)
    finally:
        task.cancel()
        # What it raises was told to the client by the application's own frame.
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _read_chunks(sent: asyncio.Queue[Message | None]) -> AsyncGenerator[bytes, None]:
    """The body, until the application has done all that it does for a request."""
    while (message := await sent.get()) is not None:
        if message.get("body"):
            yield message["body"]


def _receiver(content: bytes) -> Any:
    given: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        # A client that stays until it is cancelled.
        return await asyncio.get_running_loop().create_future()

    return receive


def _make_scope(caller: Caller, path: str, num_bytes: int) -> dict[str, Any]:
    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(num_bytes)}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": None,
        "server": None,
        # Nobody outside can write here: the caller is known already.
        "state": {"caller": caller},
    }
