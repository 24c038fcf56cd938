"""Who is asking: the key of a request, the project that it belongs to, and what it may do."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from kivnun.database.keys import SCOPES, SECONDS_BETWEEN_USES, SECRET_PREFIX, allows, find_key, mask_secret, note_use
from kivnun.database.open import Database
from kivnun.database.projects import DEFAULT_PROJECT, NO_QUOTAS, Quotas, read_quotas
from kivnun.database.tables import Organization, Project
from kivnun.server.errors import ApiError
from kivnun.server.service import Service

BEARER = "bearer"
KEY_HEADERS = ("api-key", "x-goog-api-key")
MISSING_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY). `kivnun keys create` makes one on the machine that serves."
)
UNKNOWN_KEY = "Incorrect API key provided: {shown}. `kivnun keys create` makes one on the machine that serves."


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Attributes:
        project_id: Whose files, jobs and models it may see.
        organization_id: The project's.
        organization_name: The third part of its tuned models' names.
        key_id: The key that it came with; None on a server without keys.
        scopes: What the key may do.
        project_name: The project's.
        quotas: What the project may use.
    """

    project_id: str
    organization_id: str
    organization_name: str
    key_id: str | None
    scopes: frozenset[str]
    project_name: str = ""
    quotas: Quotas = NO_QUOTAS


def get_service(request: Request) -> Service:
    """The server's parts, for routes to depend on."""
    service: Service = request.app.state.service
    return service


def require(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """What a route depends on to know its caller, who must have a key of that scope where keys are needed.

    It counts the request against the project's limit, and leaves the caller in `request.state.caller` for what is
    written down afterwards.

    Args:
        scope: Such as `files` or `files:read`.

    Raises:
        ValueError: For a scope that does not exist, when the route is made.
    """
    if scope not in SCOPES:
        raise ValueError(f"there is no scope {scope!r}")

    async def find(request: Request) -> Caller:
        # What the server asks of itself, such as for a batch, comes with its caller; nobody outside can write there.
        caller = getattr(request.state, "caller", None) or await find_caller(request)
        _require_named(request, caller)
        request.state.caller = caller
        limits = get_service(request).limits
        limits.take_request(caller)
        request.state.limit_headers = lambda: limits.headers(caller)
        require_scope(caller, scope)
        return caller

    return find


def require_scope(caller: Caller, scope: str) -> None:
    """Refuse a caller whose key may not do something; for what a route does beside its own work.

    Args:
        caller: Who asks.
        scope: Such as `inference`.

    Raises:
        ApiError: 403, `missing_scope`.
    """
    if not allows(caller.scopes, scope):
        raise _missing_scope(caller, scope)


def read_secret(request: Request) -> str | None:
    """The key that a request came with, as OpenAI's, Azure's or Google's libraries send it."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == BEARER and secret.strip():
        return secret.strip()
    return next((found for name in KEY_HEADERS if (found := request.headers.get(name, "").strip())), None)


async def find_caller(request: Request) -> Caller:
    """Who a request comes from; `require` also counts it, and asks what its key may do.

    Args:
        request: As it came.

    Raises:
        ApiError: 401.
    """
    service, secret = get_service(request), read_secret(request)
    if not service.settings.require_keys and not (secret or "").startswith(SECRET_PREFIX):
        # Programs must send something: a word that is no key of this server is nobody's in particular.
        secret = ""
    if secret is None:
        raise ApiError(401, MISSING_KEY, code="invalid_api_key")
    known = service.limits.known_keys
    caller = known.find(secret)
    if caller is not None:
        return caller
    began = known.now()
    found = await run_in_threadpool(_look_up, service.database, secret)
    if found is None:
        raise ApiError(401, UNKNOWN_KEY.format(shown=mask_secret(secret)), code="invalid_api_key")
    caller, seconds = found
    known.remember(secret, caller, began, seconds)
    return caller


def _look_up(database: Database, secret: str) -> tuple[Caller, float] | None:
    """The caller of a key, or of none, and for how many seconds at most that holds."""
    now = time.time()
    with database.reading() as session:
        if not secret:
            return make_caller(session, DEFAULT_PROJECT, None, frozenset({"all"})), float("inf")
        key = find_key(session, secret, now=now)
        if key is None:
            return None
        caller = make_caller(session, key.project_id, key.id, frozenset(key.scopes))
    if key.last_used_at is None or key.last_used_at <= now - SECONDS_BETWEEN_USES:
        with database.writing() as session:
            note_use(session, key.id, int(now))
    return caller, float("inf") if key.expires_at is None else key.expires_at - now


def make_caller(session: Session, project_id: str, key_id: str | None, scopes: frozenset[str]) -> Caller:
    """The caller of a project.

    Args:
        session: Open for reading.
        project_id: The project.
        key_id: The key that it came with, if it did.
        scopes: What it may do.
    """
    query = select(Project, Organization).join(Organization).where(Project.id == project_id)
    project, organization = session.execute(query).one()
    quotas = read_quotas(project)
    return Caller(project.id, organization.id, organization.name, key_id, scopes, project.name, quotas)


def _require_named(request: Request, caller: Caller) -> None:
    """A client that names another organisation or project than its key's would work where it does not mean to."""
    wanted = request.headers.get("openai-organization")
    if wanted and wanted not in (caller.organization_id, caller.organization_name):
        message = f"No such organization: {wanted}. Leave out OpenAI-Organization, or give the one of the key."
        raise ApiError(401, message, code="invalid_organization")
    wanted = request.headers.get("openai-project")
    if wanted and wanted not in (caller.project_id, caller.project_name):
        message = "OpenAI-Project header should match project for API key. Leave it out, or give the one of the key."
        raise ApiError(401, message, code="mismatched_project")


def _missing_scope(caller: Caller, scope: str) -> ApiError:
    message = (
        f"You have insufficient permissions for this operation. Missing scopes: {scope}. "
        f"The key has: {', '.join(sorted(caller.scopes))}."
    )
    return ApiError(403, message, code="missing_scope")
