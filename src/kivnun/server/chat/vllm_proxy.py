"""Requests for models that vLLM computes: passed on as they were checked, and answered as it answers.

A route calls `proxied` once the request is known to be well-formed and the model to be the caller's:

    reply = await proxied(service, named, request)
    if reply is not None:
        return reply
"""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from fastapi import Request
from starlette.responses import Response

from kivnun.errors import UserError
from kivnun.server.callers import Caller
from kivnun.server.chat.event_stream import CLIENT_GONE, EventStream, unless_gone
from kivnun.server.errors import ApiError, say_problem
from kivnun.server.model_names import NamedModel
from kivnun.server.service import Service
from kivnun.serving.vllm import VllmModel, VllmServer, VllmServers, name_model

ROUTES = ("/v1/chat/completions", "/v1/completions")
# vLLM takes more, such as templates and addresses that it would fetch: nothing of that is any client's to choose.
FIELDS = frozenset(
    (
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "seed",
        "stream",
        "stream_options",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "user",
        "echo",
        "best_of",
        "suffix",
        "top_k",
    )
)
# They ask for nothing that changes an answer, so that vLLM need not know them.
SILENT = frozenset(
    (
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "modalities",
        "reasoning_effort",
        "verbosity",
    )
)
UNAVAILABLE = "The engine that computes this model does not answer. The server's log says why."


async def proxied(service: Service, named: NamedModel, request: Request) -> Response | None:
    """The answer of vLLM, whole or as a stream; None on a server that computes models itself.

    Args:
        service: Of the server.
        named: The model that is asked.
        request: To /chat/completions or /completions; its body may have been read.

    Raises:
        ApiError: 400 for a field that is not passed on, 429 without room, 503 if vLLM does not answer.
        BusyError: While it computes another base.
    """
    servers = service.vllm
    if servers is None:
        return None
    model = name_model(named.name, named.base_name, named.address.tuned)
    body = _checked(await request.json(), model)
    caller: Caller = request.state.caller
    # At least one token must be left; what an answer took is known at its end.
    service.limits.take_tokens(caller, 1)
    answer = await unless_gone(request, _ask(service, servers, caller, model, (_route(request), body)))
    return Response(status_code=CLIENT_GONE) if answer is None else answer


async def _ask(
    service: Service, servers: VllmServers, caller: Caller, model: VllmModel, asked: tuple[str, dict[str, Any]]
) -> Response:
    route, body = asked
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(servers.asking(model))
            reply = await _send(stack, server, route, body)
        except UserError as error:
            raise ApiError(
                503, say_problem(error, service.settings.private_folders), type="server_error", code=error.code
            ) from error
        if reply.status_code >= 500 or reply.status_code in (401, 403):
            raise ApiError(503, UNAVAILABLE, type="server_error", code="engine-failed")
        if not body.get("stream") or reply.status_code != 200:
            content = await _read(reply)
            _settle(service, caller, *_read_usage(content))
            return Response(content, reply.status_code, media_type="application/json")
        parts = _pass_on(stack.pop_all(), reply, service, caller)
        # Begun here: one that never began would not end either, and a client may leave before its first part.
        await anext(parts)
        return EventStream(parts, {})
    raise AssertionError("an exit stack that is not asked to swallows no error")


async def _send(stack: AsyncExitStack, server: VllmServer, route: str, body: dict[str, Any]) -> httpx2.Response:
    try:
        return await stack.enter_async_context(server.client.stream("POST", route, json=body))
    except httpx2.TransportError as error:
        raise ApiError(503, UNAVAILABLE, type="server_error", code="engine-failed") from error


async def _read(reply: httpx2.Response) -> bytes:
    try:
        return await reply.aread()
    except httpx2.TransportError as error:
        raise ApiError(503, UNAVAILABLE, type="server_error", code="engine-failed") from error


async def _pass_on(
    stack: AsyncExitStack, reply: httpx2.Response, service: Service, caller: Caller
) -> AsyncGenerator[bytes, None]:
    """Nothing at first, then the stream as it comes; a client that leaves closes it, and vLLM stops computing."""
    num_events = 0
    async with stack:
        try:
            yield b""
            async for part in reply.aiter_raw():
                num_events += part.count(b"data: ")
                yield part
        except httpx2.TransportError:
            error = ApiError(503, UNAVAILABLE, type="server_error", code="engine-failed")
            yield b"data: " + json.dumps(error.to_json()).encode() + b"\n\n"
        finally:
            # An event carries a token; the prompt's are not told in every stream, and stay uncounted.
            _settle(service, caller, 0, num_events)


def _settle(service: Service, caller: Caller, prompt: int, answer: int) -> None:
    """Count what an answer took; one token was taken before it."""
    service.limits.spend_tokens(caller, prompt + answer - 1)
    service.counters.tokens(prompt=prompt, answer=answer)


def _checked(body: dict[str, Any], model: VllmModel) -> dict[str, Any]:
    given = {name: value for name, value in body.items() if value is not None and name not in SILENT}
    unknown = next((name for name in given if name not in FIELDS), None)
    if unknown is not None:
        told = unknown[:100]
        raise ApiError(400, f"Unrecognized request argument supplied: {told}", param=told, code="unknown_parameter")
    _require_text(given)
    return {**given, "model": model.name}


def _require_text(body: dict[str, Any]) -> None:
    """Refuse addresses of pictures and sounds: vLLM would fetch them from wherever a client says."""
    for place, message in enumerate(body.get("messages") or ()):
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                raise ApiError(400, "Only text can be answered.", param=f"messages[{place}].content")


def _route(request: Request) -> str:
    found = next((route for route in ROUTES if request.url.path.endswith(route)), None)
    if found is None:
        raise AssertionError(f"vLLM is not asked for {request.url.path}")
    return found


def _read_usage(content: bytes) -> tuple[int, int]:
    """Tokens of the prompt and of the answer; none where a request was refused."""
    try:
        usage = json.loads(content)["usage"]
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        return 0, 0
