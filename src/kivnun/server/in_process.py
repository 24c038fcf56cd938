"""Requests that the server makes of itself in a client's name: the same routes as over HTTP, without a socket."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message

from kivnun.server.bodies import check_json
from kivnun.server.callers import Caller
from kivnun.server.errors import add_error_replies, to_api_error
from kivnun.server.service import Service


@dataclass(frozen=True)
class Reply:
    """What a route answered.

    Attributes:
        status: Of HTTP.
        headers: In small letters.
        body: Of the reply.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def make_app(service: Service, routers: Sequence[APIRouter]) -> FastAPI:
    """An application with some routes of the server, for `ask`.

    Args:
        service: Of the server.
        routers: What it can be asked.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    for router in routers:
        app.include_router(router, prefix="/v1")
    add_error_replies(app)
    return app


async def ask(app: ASGIApp, caller: Caller, path: str, body: Mapping[str, Any], *, request_id: str) -> Reply:
    """Post a request and wait for the whole answer; being cancelled cancels the request.

    Args:
        app: From `make_app`.
        caller: In whose name.
        path: Such as `/v1/embeddings`.
        body: What is asked.
        request_id: For the server's log.

    Raises:
        Exception: Whatever a route raises that is no answer to a client.
    """
    content = orjson.dumps(body)
    try:
        check_json(content)
    except Exception as error:  # noqa: BLE001 - told as the frame around the real application tells it
        told = to_api_error(error)
        return Reply(told.status, {}, orjson.dumps(told.to_json()))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())],
        "client": None,
        "server": None,
        # Nobody outside can write here: the caller is known already.
        "state": {"caller": caller, "request_id": request_id},
    }
    given, sent = [{"type": "http.request", "body": content, "more_body": False}], list[Message]()

    async def receive() -> Message:
        if given:
            return given.pop()
        # A client that stays until it is cancelled.
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}
    whole = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return Reply(start["status"], headers, whole)
