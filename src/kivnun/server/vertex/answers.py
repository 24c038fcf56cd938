"""`generateContent` and `streamGenerateContent`: Google's way to ask the models that chat answers with."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from kivnun.database.identifiers import new_id
from kivnun.database.tables import TunedModel, VertexJob
from kivnun.server.callers import Caller, find_caller, get_service
from kivnun.server.chat.event_stream import EventStream
from kivnun.server.chat.routes import UNUSED_HEADER
from kivnun.server.errors import ApiError, not_found
from kivnun.server.in_process import OpenReply, ask, open_reply
from kivnun.server.model_names import STAND_IN_HEADER, may_use
from kivnun.server.service import Service
from kivnun.server.vertex.content import (
    GenerateContent,
    make_candidate,
    make_head,
    make_usage,
    to_chat,
    to_chunk,
    to_response,
)
from kivnun.server.vertex.errors import GoogleRoute, google_error
from kivnun.server.vertex.shapes import STEPS

router = APIRouter(prefix="/projects/{project}/locations/{location}", tags=["vertex"], route_class=GoogleRoute)
# Chat, which is asked in the caller's name, counts the request and asks for the key's scope.
Asker = Annotated[Caller, Depends(find_caller)]
TheService = Annotated[Service, Depends(get_service)]
Endpoint = Annotated[int, Path(ge=STEPS, lt=2**63)]
Alt = Annotated[Literal["sse"], Query()]
CHAT = "/v1/chat/completions"
DATA = b"data: "


@router.post("/endpoints/{endpoint}:generateContent", response_model=None)
async def ask_endpoint(
    endpoint: Endpoint, project: str, location: str, body: GenerateContent, request: Request, caller: Asker
) -> Response:
    """Ask a tuned model."""
    model = await run_in_threadpool(_find_model, get_service(request), caller, (project, location), endpoint)
    return await _answer(request, caller, model, body)


@router.post("/publishers/{publisher}/models/{model:path}:generateContent", response_model=None)
async def ask_model(publisher: str, model: str, body: GenerateContent, request: Request, caller: Asker) -> Response:
    """Ask a model by its name."""
    return await _answer(request, caller, _name(publisher, model), body)


@router.post("/endpoints/{endpoint}:streamGenerateContent", response_model=None)
async def stream_endpoint(
    endpoint: Endpoint, project: str, location: str, body: GenerateContent, request: Request, caller: Asker, alt: Alt
) -> Response:
    """Ask a tuned model, and read its answer as it comes."""
    model = await run_in_threadpool(_find_model, get_service(request), caller, (project, location), endpoint)
    return await _stream(request, caller, model, body)


@router.post("/publishers/{publisher}/models/{model:path}:streamGenerateContent", response_model=None)
async def stream_model(
    publisher: str, model: str, body: GenerateContent, request: Request, caller: Asker, alt: Alt
) -> Response:
    """Ask a model by its name, and read its answer as it comes."""
    return await _stream(request, caller, _name(publisher, model), body)


def _name(publisher: str, model: str) -> str:
    return model if publisher == "google" else f"{publisher}/{model}"


def _find_model(service: Service, caller: Caller, place: tuple[str, str], endpoint: int) -> str:
    """The name of the tuned model, or of the checkpoint, that an endpoint's number stands for."""
    number, step = divmod(endpoint, STEPS)
    query = (
        select(TunedModel.name)
        .join(VertexJob, VertexJob.job_id == TunedModel.job_id)
        .where(
            VertexJob.number == number,
            VertexJob.cloud_project == place[0],
            VertexJob.location == place[1],
            TunedModel.checkpoint_step == step if step else TunedModel.checkpoint_step.is_(None),
            may_use(caller),
        )
    )
    with service.database.reading() as session:
        name = session.scalar(query)
    if name is None:
        raise not_found("endpoint", str(endpoint))
    return name


async def _answer(request: Request, caller: Caller, model: str, body: GenerateContent) -> Response:
    reply = await ask(request.app, caller, CHAT, to_chat(body, model, stream=False))
    _refuse(reply.status, reply.body, reply.headers)
    made = to_response(orjson.loads(reply.body), make_head(model, new_id("")))
    return JSONResponse(made, headers=_tell(body, reply.headers))


async def _stream(request: Request, caller: Caller, model: str, body: GenerateContent) -> Response:
    stack = AsyncExitStack()
    try:
        chat = to_chat(body, model, stream=True)
        reply = await stack.enter_async_context(open_reply(request.app, caller, CHAT, chat))
        if reply.status != 200:
            _refuse(reply.status, b"".join([chunk async for chunk in reply.chunks]), reply.headers)
    except BaseException:
        await stack.aclose()
        raise
    events = _events(stack, reply, make_head(model, new_id("")))
    # Begun, so that closing it closes the stack.
    first = await anext(events)
    return EventStream(_behind(first, events), _tell(body, reply.headers))


async def _behind(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def _events(stack: AsyncExitStack, reply: OpenReply, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Google's events, made of OpenAI's; the ends of all answers come last, with what they took."""
    ends: list[dict[str, Any]] = []
    async with stack:
        async for line in _lines(reply):
            chunk = orjson.loads(line)
            if "error" in chunk:
                error = chunk["error"]
                yield _encode(google_error(ApiError(500, error["message"], code=error["code"])))
                return
            ends += [
                make_candidate(choice["index"], "", choice["finish_reason"])
                for choice in chunk["choices"]
                if choice["finish_reason"] is not None
            ]
            made = to_chunk(chunk, head)
            if not chunk["choices"]:
                made = {"candidates": ends, "usageMetadata": make_usage(chunk["usage"]), **head}
            if made is not None:
                yield _encode(made)


async def _lines(reply: OpenReply) -> AsyncGenerator[bytes, None]:
    """The data of each event."""
    left = b""
    async for chunk in reply.chunks:
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            if line.startswith(DATA) and line != b"data: [DONE]":
                yield line.removeprefix(DATA)


def _encode(value: dict[str, Any]) -> bytes:
    return DATA + orjson.dumps(value) + b"\r\n\r\n"


def _refuse(status: int, body: bytes, headers: Any) -> None:
    """Raise what chat refused, in its own words."""
    if status != 200:
        error = orjson.loads(body)["error"]
        kept = {name: headers[name] for name in ("retry-after", "retry-after-ms") if name in headers}
        raise ApiError(status, error["message"], param=error["param"], code=error["code"], headers=kept)


def _tell(body: GenerateContent, headers: Mapping[str, str]) -> dict[str, str]:
    """What had no effect, and who answered in a hosted model's place."""
    unused = headers.get(UNUSED_HEADER)
    names = [*body.unused, *([unused] if unused else [])]
    told = {UNUSED_HEADER: ", ".join(names)} if names else {}
    return told | {name: headers[name] for name in (STAND_IN_HEADER,) if name in headers}
