"""POST /chat/completions: messages in, answers out, whole or as a stream, in the hosted API's very form."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from kivnun.database.identifiers import new_id
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.chat.answering import Delta, Finish, follow
from kivnun.server.chat.answers import ChatAsk, gather_choices, now, prepare_chat, usage_object
from kivnun.server.chat.asked_model import EXPECTED_TOKENS, fingerprint, name_model, note, open_model, spending
from kivnun.server.chat.event_stream import CLIENT_GONE, open_stream, unless_gone
from kivnun.server.chat.objects import (
    Head,
    completion_object,
    delta_chunk,
    first_chunk,
    last_chunk,
    usage_chunk,
)
from kivnun.server.chat.shapes import ChatRequest, require_supported
from kivnun.server.chat.vllm_proxy import proxied
from kivnun.server.model_names import tell_stand_in
from kivnun.server.service import Service
from kivnun.serving.text import vocabulary_of

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

router = APIRouter(tags=["chat"])
Inferrer = Annotated[Caller, Depends(require("inference"))]
TheService = Annotated[Service, Depends(get_service)]
UNUSED_HEADER = "x-kivnun-unused"


@dataclass(frozen=True)
class _Chat:
    """A request on its way."""

    service: Service
    caller: Caller
    model: "OpenModel"
    request: ChatRequest
    ask: ChatAsk
    head: Head


@router.post("/chat/completions", response_model=None)
async def create_chat_completion(
    request: Request, body: ChatRequest, caller: Inferrer, service: TheService
) -> Response:
    """Answer messages with a model, whole or, with `stream`, as it comes."""
    require_supported(body)
    named = await name_model(service, caller, body.model)
    request.state.model_headers = tell_stand_in(service.settings, body.model)
    passed_on = await proxied(service, named, request)
    if passed_on is not None:
        return passed_on
    model = await open_model(service, named)
    ask = await run_in_threadpool(prepare_chat, model, body, cache_salt=caller.project_id)
    head = Head(
        id=new_id("chatcmpl-"),
        created=now(),
        model=body.model,
        fingerprint=fingerprint(named),
        service_tier=body.service_tier,
        vocabulary=vocabulary_of(model.encoder),
        tells_logprobs=bool(body.logprobs),
    )
    chat = _Chat(service, caller, model, body, ask, head)
    headers = {UNUSED_HEADER: ", ".join(ask.prompt.unused)} if ask.prompt.unused else {}
    if body.stream:
        return await open_stream(_chunks(chat), request, headers)
    made = await unless_gone(request, _complete(chat))
    return Response(status_code=CLIENT_GONE) if made is None else JSONResponse(made, headers=headers)


async def _told(chat: _Chat) -> AsyncGenerator[Delta | Finish, None]:
    """What the answers give, counted."""
    wish = chat.ask.wish
    most = wish.asked.max_new_tokens if chat.ask.limited else min(wish.asked.max_new_tokens, EXPECTED_TOKENS)
    prompt_tokens = [len(chat.ask.prompt.token_ids)]
    async with AsyncExitStack() as stack:
        spent = await stack.enter_async_context(
            spending(chat.service, chat.caller, prompt_tokens, most * wish.num_answers)
        )
        told = await stack.enter_async_context(aclosing(follow(chat.model, [wish])))
        async for each in told:
            note(chat.service, spent, each)
            yield each


async def _complete(chat: _Chat) -> dict[str, Any]:
    async with aclosing(_told(chat)) as told:
        result = await gather_choices(told, chat.ask.wish.num_answers)
    return completion_object(chat.head, result, chat.request.metadata)


async def _chunks(chat: _Chat) -> AsyncGenerator[dict[str, Any], None]:
    options = chat.request.stream_options
    tells_usage = bool(options and options.include_usage)
    obfuscated = bool(options and options.include_obfuscation)
    # With usage asked for, every chunk but the last says that it is not known yet.
    extra: dict[str, Any] = {"usage": None} if tells_usage else {}
    finished: dict[int, Finish] = {}
    opened: set[int] = set()
    async with aclosing(_told(chat)) as told:
        async for each in told:
            if each.index not in opened:
                opened.add(each.index)
                yield first_chunk(chat.head, each.index) | extra
            if isinstance(each, Delta):
                yield delta_chunk(chat.head, each, obfuscated=obfuscated) | extra
            else:
                finished[each.index] = each
                yield last_chunk(chat.head, each.index, each.reason) | extra
    if tells_usage:
        ended = [finished[index].ended for index in sorted(finished)]
        yield usage_chunk(chat.head, usage_object(ended))
