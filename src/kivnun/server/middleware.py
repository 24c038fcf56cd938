"""What happens to every request before and after its route: a name, a clock, a checked body, and never a bare error."""

import asyncio
import re
import secrets
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kivnun.server.bodies import MAX_JSON_BYTES, check_json
from kivnun.server.callers import find_caller, get_service
from kivnun.server.counters import Counters
from kivnun.server.errors import ApiError, hidden_folders, log_failure, to_api_error
from kivnun.server.route_names import NamedRoute, find_route
from kivnun.server.vertex.errors import reply_to

API_VERSION = "2020-10-01"
BODY_IDLE_SECONDS = 60.0
CLIENT_LEFT = 499
UNKNOWN_ROUTE = "unknown"
_LOCAL_NAMES = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
# AzureOpenAI's two ways to write an address, and the ways of our own.
_DEPLOYMENT = re.compile(r"/openai/deployments/(.+?)/(chat/completions|completions|embeddings)$")
_AZURE = re.compile(r"/openai/(?:v1/)?(?=files|uploads|fine_tuning|models|chat|completions|embeddings|batches)")
_STREAMED = re.compile(r"/v1/(files|uploads/[^/]+/parts)/?$|^/upload/storage/v1/b/[^/]+/o$")


class RequestFrame:
    """The frame around an application."""

    def __init__(
        self,
        app: ASGIApp,
        counters: Counters,
        *,
        local_only: bool,
        max_upload_bytes: int,
        body_idle_seconds: float = BODY_IDLE_SECONDS,
        routes: Sequence[NamedRoute] = (),
    ) -> None:
        """Args as they are given to the application.

        Args:
            app: What answers.
            counters: What is counted.
            local_only: Whether anybody on this machine may ask without a key. A page that a browser here shows must
                not, so that requests which such a page could send are refused.
            max_upload_bytes: Most bytes of a body that is streamed to the disk.
            body_idle_seconds: For how long a body may stop; the whole of it may take as long as it takes.
            routes: What the application answers, to name what is refused before it gets there.
        """
        self._app = app
        self._counters = counters
        self._local_only = local_only
        self._max_upload_bytes = max_upload_bytes
        self._body_idle_seconds = body_idle_seconds
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        scope["path"], deployment = _own_path(scope["path"])
        self._counters.begin_request()
        try:
            await self._answer(scope, receive, answer, deployment)
        except ClientDisconnect:
            pass
        finally:
            refused: NamedRoute | None = scope["state"].get("refused_route")
            unrouted = UNKNOWN_ROUTE if refused is None else refused.name
            route = getattr(scope.get("route"), "path", unrouted)
            seconds = time.perf_counter() - answer.began
            self._counters.end_request(route, scope["method"], answer.status or CLIENT_LEFT, seconds)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer", deployment: str | None) -> None:
        try:
            self._check_head(scope)
            receive = _with_deadline(receive, self._body_idle_seconds)
            headers = Headers(scope=scope)
            if _has_body(headers) and not _STREAMED.search(scope["path"]):
                if "caller" not in scope["state"]:
                    # Nobody without a key, or beyond a limit, makes the server hold and parse a large body.
                    request = Request(scope)
                    get_service(request).limits.require_request(await find_caller(request))
                receive = await _check_body(headers, receive, deployment)
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - the border: nothing behind it may reach a client bare
            told = to_api_error(error, hidden_folders(scope))
            scope["state"]["refused_route"] = find_route(self._routes, scope["method"], scope["path"])
            if told.status == 500:
                log_failure(error, answer.request_id)
            if not answer.status:
                await reply_to(scope["path"], told)(scope, receive, answer)

    def _check_head(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise ApiError(400, "The address of your request holds the character NUL, which is not allowed.")
        if self._local_only:
            _require_local(headers)
        kind = headers.get("content-type", "")
        streams = _STREAMED.search(scope["path"]) is not None
        if kind.startswith("multipart/") and not streams:
            raise ApiError(415, f"Unsupported content type '{kind[:50]}': send application/json.")
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise ApiError(415, f"Unsupported content encoding '{encoding[:50]}': send the body as it is.")
        length = headers.get("content-length", "0")
        limit = self._max_upload_bytes if streams else MAX_JSON_BYTES
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large(limit)


def too_large(limit: int) -> ApiError:
    """What is answered for a body that is too long.

    Args:
        limit: Most bytes that are read.
    """
    return ApiError(413, f"The body of your request is too long: at most {limit} bytes are read.", code="too_large")


class _Answer:
    """Sends a reply with the headers that every reply has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.began = time.perf_counter()
        self.request_id = f"req_{secrets.token_hex(16)}"
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-version"] = API_VERSION
            headers["openai-processing-ms"] = str(round((time.perf_counter() - self.began) * 1000))
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)


def _own_path(path: str) -> tuple[str, str | None]:
    """An address as the routes know it, and the model that Azure's way of writing it names."""
    found = _DEPLOYMENT.match(path)
    if found:
        return f"/v1/{found[2]}", found[1]
    return _AZURE.sub("/v1/", path, count=1), None


def _require_local(headers: Headers) -> None:
    """Refuse what a foreign page in a browser of this machine could send, by its own name or one that points here."""
    host = headers.get("host", "")
    origin = headers.get("origin")
    foreign = origin is not None and _LOCAL_NAMES.fullmatch(origin.split("://")[-1]) is None
    if _LOCAL_NAMES.fullmatch(host) is None or foreign or headers.get("sec-fetch-site") == "cross-site":
        message = "This server answers without keys, and then only programs of its own machine, not pages of others."
        raise ApiError(403, message, code="foreign_origin")


def _with_deadline(receive: Receive, seconds: float) -> Receive:
    """A client that stops in the middle of a body is told so, instead of keeping its place for ever."""
    ended = False

    async def receive_in_time() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError as error:
            told = f"No byte of the body of your request came for {seconds:g} seconds."
            raise ApiError(408, told, code="request_timeout") from error
        ended = not message.get("more_body", False)
        return message

    return receive_in_time


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def _check_body(headers: Headers, receive: Receive, deployment: str | None) -> Receive:
    """The body of a request as JSON, read and checked; what is returned gives it once more."""
    body = await _read_body(receive)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/json" and not kind.endswith("+json"):
        shown = f"'{kind[:50]}'" if kind else "none"
        raise ApiError(415, f"Unsupported content type {shown}: send the header Content-Type: application/json.")
    if body:
        check_json(body)
        body = body if deployment is None else _with_model(body, deployment)
    first: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


def _with_model(body: bytes, deployment: str) -> bytes:
    """A body that asks for the model of its address, as Azure answers: the one in the body does not count there."""
    value = orjson.loads(body)
    if not isinstance(value, dict) or value.get("model") == deployment:
        return body
    return orjson.dumps({**value, "model": deployment})


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > MAX_JSON_BYTES:
            raise too_large(MAX_JSON_BYTES)
        chunks.append(chunk)
    return b"".join(chunks)
