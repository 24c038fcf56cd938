"""The application: every route in one visible list, inside one frame."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from kivnun.server import elsewhere, health, models
from kivnun.server.audit_requests import AuditRequests
from kivnun.server.background import Task, keep_running
from kivnun.server.batches import routes as batches
from kivnun.server.batches.runner import run_batches
from kivnun.server.chat import completions
from kivnun.server.chat import routes as chat
from kivnun.server.embeddings import routes as embeddings
from kivnun.server.errors import ApiError, add_error_replies
from kivnun.server.field_names import say_unknown
from kivnun.server.files import routes as files
from kivnun.server.files import uploads
from kivnun.server.middleware import RequestFrame
from kivnun.server.route_names import name_routes
from kivnun.server.service import Service
from kivnun.server.sweep import sweep
from kivnun.server.tuning import events, permissions
from kivnun.server.tuning import routes as tuning
from kivnun.server.vertex import answers as vertex_answers
from kivnun.server.vertex import elsewhere as vertex_elsewhere
from kivnun.server.vertex import routes as vertex
from kivnun.server.vertex import storage
from kivnun.server.vertex.resumable import ResumableUploads

# Room for the names and borders of a multipart body around the file itself.
MULTIPART_EXTRA_BYTES = 1 << 20
# Under /v1; `/openai/v1` and Azure's older addresses lead to the same.
ROUTERS: tuple[APIRouter, ...] = (
    files.router,
    uploads.router,
    models.router,
    chat.router,
    completions.router,
    tuning.router,
    events.router,
    permissions.router,
    embeddings.router,
    batches.router,
)
# Google's, under each version that its libraries ask for.
VERTEX_ROUTERS: tuple[APIRouter, ...] = (vertex.router, vertex_answers.router)
# At their own addresses.
OTHER_ROUTERS: tuple[APIRouter, ...] = (health.router,)
# Over the bucket folder, which belongs to all projects.
BUCKET_ROUTERS: tuple[APIRouter, ...] = (storage.router,)
# What goes on beside the requests, from the start of the application to its end.
TASKS: tuple[Callable[[Service], Task], ...] = (sweep,)
# Sent by libraries to every address; they change nothing here.
_IGNORED_QUERY = frozenset({"api-version"})


def refuse_unknown_query(request: Request) -> None:
    """What a client asks for and no route reads is refused, not ignored: a misspelt `limit` would give another list.

    Args:
        request: Whose route is known.

    Raises:
        ApiError: 400, `unknown_parameter`.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = _query_names(route.dependant) | _IGNORED_QUERY
    for name in request.query_params:
        # Objects are written `metadata[key]=value`; the route that takes them reads the keys.
        if name.partition("[")[0] not in known and name not in known:
            told = name[:100]
            raise ApiError(400, say_unknown(told, told, known), param=told, code="unknown_parameter")


def _query_names(dependant: Dependant) -> set[str]:
    """What a route and everything that it depends on read from an address."""
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_names(each) for each in dependant.dependencies))


def create_app(service: Service) -> FastAPI:
    """The application around a service.

    Args:
        service: Open until the application ends.
    """

    def answer_batches(service: Service) -> Task:
        return run_batches(service, app)

    @asynccontextmanager
    async def run_tasks(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for make in (*TASKS, answer_batches):
                await stack.enter_async_context(keep_running(make, service))
            yield

    # The pages under /docs would load scripts from elsewhere.
    app = FastAPI(title="Kivnun", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=run_tasks)
    app.state.service = service
    app.state.resumable_uploads = ResumableUploads()
    for router in ROUTERS:
        app.include_router(router, prefix="/v1", dependencies=[Depends(refuse_unknown_query)])
    for router in VERTEX_ROUTERS:
        for prefix in vertex.PREFIXES:
            app.include_router(router, prefix=prefix, dependencies=[Depends(refuse_unknown_query)])
    for router in BUCKET_ROUTERS:
        app.include_router(router, dependencies=[Depends(refuse_unknown_query)])
    for router in OTHER_ROUTERS:
        app.include_router(router)
    app.include_router(elsewhere.router)
    for prefix in vertex.PREFIXES:
        app.include_router(vertex_elsewhere.router, prefix=prefix)
    add_error_replies(app)
    placed = [("/v1", router) for router in ROUTERS]
    placed += [(prefix, router) for router in VERTEX_ROUTERS for prefix in vertex.PREFIXES]
    app.add_middleware(
        RequestFrame,
        counters=service.counters,
        local_only=not service.settings.require_keys,
        max_upload_bytes=service.settings.max_file_bytes + MULTIPART_EXTRA_BYTES,
        routes=name_routes([*placed, *(("", router) for router in BUCKET_ROUTERS)]),
    )
    # Around the frame: it writes down what the frame refuses too.
    app.add_middleware(AuditRequests, database=service.database)
    return app
