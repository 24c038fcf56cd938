"""A layer around the app: what changed is written down before the client hears of it; limits and stand-ins are told.

Pure ASGI, so that nothing is held back: bodies and streams pass through as they come. The app adds it with
`app.add_middleware(AuditRequests, database=service.database)`; what it is around puts the request's name into
`scope["state"]["request_id"]`, and into `refused_route` which route a refused one never came to. Routes find their
subject by their path; a route that makes something names it with `note_subject(request, file.id)`.

A key that was refused belongs to no project. Whoever tries many must not fill the disk: an address has one line a
minute, all together have ten, and the next line counts what was left out.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kivnun.database.audit import Change, record
from kivnun.database.keys import SECRET_PREFIX, mask_secret
from kivnun.database.open import Database
from kivnun.server.callers import Caller, read_secret
from kivnun.server.route_names import NamedRoute

CLIENT_LEFT = 499
READING = frozenset({"GET", "HEAD", "OPTIONS"})
# They compute an answer and leave nothing behind.
ASKING = ("/chat/completions", "/completions", "/embeddings", ":generateContent", ":streamGenerateContent")
REFUSED = 401
REFUSED_LINES_PER_MINUTE = 10
_LOG = logging.getLogger(__name__)


class RefusedKeys:
    """Which refusals of a key are written down; the others are counted.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minute = 0
        self._addresses: set[str] = set()
        self._left_out = 0
        self._lock = threading.Lock()

    def take(self, address: str) -> int | None:
        """How many were left out since the line before; None where this one is left out too.

        Args:
            address: Where the request came from.
        """
        with self._lock:
            minute = int(self._clock() // 60)
            if minute != self._minute:
                self._minute, self._addresses = minute, set()
            if address in self._addresses or len(self._addresses) >= REFUSED_LINES_PER_MINUTE:
                self._left_out += 1
                return None
            self._addresses.add(address)
            left_out, self._left_out = self._left_out, 0
            return left_out


class AuditRequests:
    """The layer.

    Args:
        app: What answers.
        database: Where the audit log is.
        clock: Seconds that only grow.
    """

    def __init__(self, app: ASGIApp, *, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._database = database
        self._refused_keys = RefusedKeys(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Made here, so that it is the one that the routes write to, whoever copies the scope.
        state: dict[str, Any] = scope.setdefault("state", {})

        begun = False

        async def pass_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _add_headers(message, state)
                await self._write_down(scope, state, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, pass_on)
        except Exception as error:
            if not begun:
                await self._write_down(scope, state, CLIENT_LEFT if isinstance(error, ClientDisconnect) else 500)
            raise
        if not begun:
            await self._write_down(scope, state, CLIENT_LEFT)

    async def _write_down(self, scope: Scope, state: Mapping[str, Any], status: int) -> None:
        caller: Caller | None = state.get("caller")
        if scope["method"] in READING:
            return
        if caller is None:
            left_out = self._refused_keys.take(_address(scope)) if status == REFUSED else None
            if left_out is None:
                return
            change = _make_refusal(scope, state, left_out)
        elif scope["path"].endswith(ASKING):
            return
        else:
            change = _make_change(scope, state, status, caller)
        try:
            await run_in_threadpool(self._record, change)
        except SQLAlchemyError:
            # The change itself is made and stays: the client must hear of it.
            _LOG.exception("the audit log could not be written for %s %s", change.action, change.subject)

    def _record(self, change: Change) -> None:
        with self._database.writing() as session:
            record(session, change)


def note_subject(request: Request, *ids: str) -> None:
    """Say what a request made, for the audit log.

    Args:
        request: Being answered.
        *ids: The names of what it made.
    """
    request.state.audit_subject = " ".join(ids)


def _make_change(scope: Scope, state: Mapping[str, Any], status: int, caller: Caller) -> Change:
    parameters: Mapping[str, object] = scope.get("path_params") or {}
    named = " ".join(str(value) for value in parameters.values())
    return Change(
        action=f"{scope['method']} {_name_route(scope['path'], parameters)}",
        subject=str(state.get("audit_subject") or named),
        status=status,
        address=_address(scope),
        request_id=str(state.get("request_id", "")),
        project_id=caller.project_id,
        key_id=caller.key_id,
    )


def _make_refusal(scope: Scope, state: Mapping[str, Any], left_out: int) -> Change:
    """The key is told as `kivnun keys list` shows it, if it looks like one of ours; one of another service never is."""
    secret = read_secret(Request(scope))
    is_ours = secret is not None and secret.startswith(SECRET_PREFIX)
    subject = "no key" if not secret else mask_secret(secret) if is_ours else "a key that is not of this server"
    if left_out:
        subject += f"; {left_out} more refused since the line before"
    return Change(
        action=f"{scope['method']} {_refused_address(scope, state)}",
        subject=subject,
        status=REFUSED,
        address=_address(scope),
        request_id=str(state.get("request_id", "")),
    )


def _refused_address(scope: Scope, state: Mapping[str, Any]) -> str:
    """What a refused request was for, without anything that only its client knows."""
    refused: NamedRoute | None = state.get("refused_route")
    if refused is not None:
        return re.sub(r"\{[^}]*\}", "*", refused.address)
    return "an unknown address" if scope.get("route") is None else _name_route(scope["path"], scope["path_params"])


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _name_route(path: str, parameters: Mapping[str, object]) -> str:
    """A path with what clients chose left out, so that the same kind of request has the same name."""
    for value in sorted(map(str, parameters.values()), key=len, reverse=True):
        path = path.replace(f"/{value}", "/*", 1) if value else path
    return path


def _add_headers(message: Message, state: Mapping[str, Any]) -> None:
    tell: Callable[[], dict[str, str]] | None = state.get("limit_headers")
    told: dict[str, str] = {**({} if tell is None else tell()), **state.get("model_headers", {})}
    headers = MutableHeaders(scope=message)
    for name, value in told.items():
        headers.setdefault(name, value)
