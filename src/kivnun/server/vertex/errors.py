"""Errors as Google's interfaces tell them, on the addresses of the Vertex face.

Reference: google.rpc.Status and google.rpc.Code (github.com/googleapis/googleapis, google/rpc).
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from kivnun.server.errors import ApiError, hidden_folders, log_failure, to_api_error

STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    507: "RESOURCE_EXHAUSTED",
}
_ADDRESS = re.compile(r"/v1(beta1)?/projects/[^/]+/locations/|/((up|down)load/)?storage/v1/b/")
# What is right in itself and wrong in the state that something is in.
_PRECONDITIONS = frozenset({"invalid_job_state"})
FAILED_CODE = 3
"""INVALID_ARGUMENT, as google.rpc.Code counts."""


def google_error(error: ApiError) -> dict[str, Any]:
    """The envelope.

    Args:
        error: As OpenAI's clients would be told.
    """
    status = STATUS.get(error.status, "INTERNAL")
    if error.code in _PRECONDITIONS:
        status = "FAILED_PRECONDITION"
    return {"error": {"code": error.status, "message": error.message, "status": status}}


def reply_to(path: str, error: ApiError) -> JSONResponse:
    """An error in the envelope of its address.

    Args:
        path: Of the request.
        error: What is told.
    """
    told = google_error(error) if _ADDRESS.match(path) else error.to_json()
    return JSONResponse(told, error.status, headers=error.headers)


class GoogleRoute(APIRoute):
    """A route that answers every error in Google's envelope."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - the border: nothing behind it may reach a client bare
                told = to_api_error(error, hidden_folders(request.scope))
                if told.status == 500:
                    log_failure(error, getattr(request.state, "request_id", ""))
                return reply_to(request.url.path, told)

        return answer
