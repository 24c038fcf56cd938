"""A layer around the app: what changed is written down before the client hears of it; limits and stand-ins are told.

Pure ASGI, so that nothing is held back: bodies and streams pass through as they come. The app adds it with
`app.add_middleware(AuditRequests, database=service.database)`; what frames it puts the request's name into
`scope["state"]["request_id"]`. Routes find their subject by their path; a route that
makes something names it with `note_subject(request, file.id)`.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kivnun.database.audit import Change, record
from kivnun.database.open import Database
from kivnun.server.callers import Caller

CLIENT_LEFT = 499
READING = frozenset({"GET", "HEAD", "OPTIONS"})
# They compute an answer and leave nothing behind.
ASKING = ("/chat/completions", "/completions", "/embeddings", ":generateContent", ":streamGenerateContent")
_LOG = logging.getLogger(__name__)


class AuditRequests:
    """The layer.

    Args:
        app: What answers.
        database: Where the audit log is.
    """

    def __init__(self, app: ASGIApp, *, database: Database) -> None:
        self._app = app
        self._database = database

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

    async def _write_down(self, scope: Scope, state: Mapping[str, Any], status: int) -> None:
        caller: Caller | None = state.get("caller")
        if caller is None or scope["method"] in READING or scope["path"].endswith(ASKING):
            return
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
    client = scope.get("client")
    return Change(
        action=f"{scope['method']} {_name_route(scope['path'], parameters)}",
        subject=str(state.get("audit_subject") or named),
        status=status,
        address=client[0] if client else "",
        request_id=str(state.get("request_id", "")),
        project_id=caller.project_id,
        key_id=caller.key_id,
    )


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
