"""What a client is told when something is refused: OpenAI's envelope for every error, whoever raised it.

FastAPI's own `{"detail": ...}` never leaves this server: OpenAI's libraries find no message in it.
"""

import logging
import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from kivnun.errors import UserError
from kivnun.jobs.private_paths import without_paths
from kivnun.server.field_errors import describe_field_error
from kivnun.server.field_names import body_shape
from kivnun.server.not_served import say_unknown_address
from kivnun.serving.answers import BusyError

TYPES = {401: "invalid_request_error", 403: "invalid_request_error", 429: "requests", 500: "server_error"}
# What a client sent can be right and the machine still have no room for it.
STATUS_OF_CODE = {"disk-full": 507, "model-invalid": 503, "model-missing": 503, "adapter-invalid": 503}
# It was whole when the server started, or when its job ended: no request can mend it.
MODEL_DAMAGED = "Whoever runs this server must mend the model"
# Told in place of what the command line would say, which names folders of this machine.
DISK_FULL = "The disk of this server is full; nothing of this request was kept. Whoever runs it must make room first."
SERVER_PROBLEM = "The server had an error while processing your request. Its log names the request by its x-request-id."
_LOG = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused, as the client is told.

    Args:
        status: HTTP status. 409 is repeated by OpenAI's libraries, so it is none for a state that stays.
        message: What is wrong, in sentences.
        type: OpenAI's kind of error.
        param: The field that it is about, such as `messages[0].role`.
        code: OpenAI's word for it.
        headers: Of the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers or {}

    def to_json(self) -> dict[str, object]:
        """The envelope."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def to_response(self) -> JSONResponse:
        """The whole reply."""
        return JSONResponse(self.to_json(), self.status, headers=self.headers)


def not_found(kind: str, name: str, *, param: str | None = "id") -> ApiError:
    """What is answered for something that is not there, or belongs to others: nobody can tell which.

    Args:
        kind: Such as `File` or `fine-tuning job`.
        name: As the client named it.
        param: The field that named it.
    """
    return ApiError(404, f"No such {kind}: {name}", param=param)


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """What is answered for one field with a wrong value.

    Args:
        param: The field.
        message: What is wrong.
        code: OpenAI's word for it.
    """
    return ApiError(400, message, param=param, code=code)


def to_api_error(error: Exception, hidden: Sequence[str] = (), shape: Any = None) -> ApiError:
    """Any exception as a client may see it; nothing of an unknown one is told, and no path of this machine.

    Args:
        error: Raised while a request was answered.
        hidden: Folders of the server.
        shape: The type that the request's body should have.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return _from_user_error(error, hidden)
    if isinstance(error, BusyError):
        return _from_busy(error)
    if isinstance(error, RequestValidationError):
        told = describe_field_error(error.errors(), error.body, shape)
        return ApiError(400, told.message, param=told.param, code=told.code)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    return ApiError(500, SERVER_PROBLEM, type="server_error")


def say_problem(error: UserError, hidden: Sequence[str] = ()) -> str:
    """What is wrong and what mends it, without paths of this machine.

    Args:
        error: The error.
        hidden: Folders of the server.
    """
    return without_paths(f"{error.problem}. {error.hint}", *hidden)


def _from_user_error(error: UserError, hidden: Sequence[str]) -> ApiError:
    status = STATUS_OF_CODE.get(error.code, 400)
    hint = MODEL_DAMAGED if status == 503 else error.hint
    message = without_paths(". ".join([error.problem, *error.details, hint]), *hidden)
    message = DISK_FULL if error.code == "disk-full" else message
    headers = {"x-should-retry": "false"} if status >= 500 else {}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ApiError(status, message, type=kind, code=error.code, headers=headers)


def _from_busy(error: BusyError) -> ApiError:
    seconds = max(error.retry_after_seconds, 0.0)
    headers = {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
    message = f"The server is busy: {error}"
    return ApiError(429, message, type="requests", code="rate_limit_exceeded", headers=headers)


def hidden_folders(scope: Mapping[str, Any]) -> Sequence[str]:
    """The folders of the server that answers a request.

    Args:
        scope: Of the request.
    """
    service = getattr(getattr(scope.get("app"), "state", None), "service", None)
    return () if service is None else service.settings.private_folders


def log_failure(error: BaseException, request_id: str) -> None:
    """Keep where an error of ours came from; its text may hold what users wrote, so that only its kind is kept.

    Args:
        error: What was raised.
        request_id: As the client was told.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    said = f": {error}" if isinstance(error, OSError) else f": {error.code}" if isinstance(error, UserError) else ""
    _LOG.error("request %s failed with %s%s\n%s", request_id, type(error).__name__, said, frames.rstrip())


def _reply(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException) and error.status_code == 404 and error.detail == "Not Found":
        return ApiError(404, say_unknown_address(request.method, request.url.path)).to_response()
    if isinstance(error, HTTPException) and error.status_code == 405:
        told = f"Not allowed to {request.method} on {request.url.path}."
        return ApiError(405, told, headers=dict(error.headers or {})).to_response()
    told = to_api_error(error, hidden_folders(request.scope), body_shape(request.scope.get("route")))
    if isinstance(error, UserError) and told.status >= 500:
        log_failure(error, getattr(request.state, "request_id", ""))
    return told.to_response()


def add_error_replies(app: FastAPI) -> None:
    """Let an application answer every error in OpenAI's envelope.

    Args:
        app: Before its first request.
    """
    for kind in (ApiError, UserError, BusyError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _reply)
