"""Server-sent events, and what happens when the client goes away: nothing is computed for nobody.

Reference: WHATWG HTML, section 9.2, `text/event-stream`.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from kivnun.server.errors import hidden_folders, log_failure, to_api_error

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
CLIENT_GONE = 499
# Proxies that collect a reply before they pass it on would undo streaming.
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
# What a client does not take stays in memory. One that took nothing for so long is given up.
STALLED_SECONDS = 120.0


class EventStream(StreamingResponse):
    """A stream that is closed as soon as its client is gone or takes no more, and not when somebody collects it.

    Args:
        events: To send, in order.
        headers: Of the reply.
        stalled_seconds: How long a client may take nothing.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._events = events
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._stalled_seconds):
                    await send(message)
            except TimeoutError as error:
                raise ClientDisconnect from error

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            await self._events.aclose()


def to_event(value: Mapping[str, Any]) -> bytes:
    """One event.

    Args:
        value: Sent as JSON.
    """
    return b"data: " + orjson.dumps(value) + b"\n\n"


async def open_stream(
    events: AsyncGenerator[Mapping[str, Any], None], request: Request, headers: Mapping[str, str]
) -> Response:
    """A streamed reply, once there is something to stream: what fails before has a status of its own.

    Args:
        events: To send, in order; `[DONE]` follows.
        request: Whose reply it is.
        headers: Of the reply.
    """
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    return EventStream(_encode(first, events, request), headers)


async def _encode(
    first: Mapping[str, Any], events: AsyncGenerator[Mapping[str, Any], None], request: Request
) -> AsyncGenerator[bytes, None]:
    try:
        yield to_event(first)
        async for each in events:
            yield to_event(each)
        yield DONE
    except Exception as error:  # noqa: BLE001 - the status is sent: an error is one more event
        told = to_api_error(error, hidden_folders(request.scope))
        if told.status >= 500:
            log_failure(error, request.state.request_id)
        yield to_event(told.to_json())
    finally:
        await events.aclose()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What some work gives; None, and the work is cancelled, if the client goes away before.

    Args:
        request: Whose body was read.
        work: For this client alone.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
