"""POST /completions: a prompt is continued as it stands; text that spells a special token is read as that token.

Several prompts are answered side by side. A model that was trained on running text reads a prompt behind an
end-of-text token, as in training; that token is no part of what `echo` gives back.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from kivnun.database.identifiers import new_id
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.chat.answering import Delta, Finish, Wish, follow
from kivnun.server.chat.answers import now, usage_object
from kivnun.server.chat.asked_model import EXPECTED_TOKENS, fingerprint, name_model, note, open_model, spending
from kivnun.server.chat.completion_objects import Echoed, TextHead, TextParts, choice_object, head_object
from kivnun.server.chat.completion_shapes import DEFAULT_MAX_TOKENS, CompletionRequest, prompts_of, require_completion
from kivnun.server.chat.event_stream import CLIENT_GONE, open_stream, unless_gone
from kivnun.server.chat.sampling_fields import asked_of, read_stops
from kivnun.server.chat.vllm_proxy import proxied
from kivnun.server.errors import ApiError, invalid
from kivnun.server.model_names import tell_stand_in
from kivnun.server.service import Service
from kivnun.serving.answers import Ended
from kivnun.serving.text import vocabulary_of

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

router = APIRouter(tags=["completions"])
Inferrer = Annotated[Caller, Depends(require("inference"))]
TheService = Annotated[Service, Depends(get_service)]


@dataclass(frozen=True)
class _Prompt:
    """A prompt with what stands in front of it unseen, and its answers."""

    echoed: Echoed
    wish: Wish


@dataclass(frozen=True)
class _Completion:
    """A request on its way."""

    service: Service
    caller: Caller
    model: "OpenModel"
    request: CompletionRequest
    prompts: tuple[_Prompt, ...]
    head: TextHead

    @property
    def num_answers(self) -> int:
        return self.request.n or 1

    @property
    def wishes(self) -> list[Wish]:
        return [prompt.wish for prompt in self.prompts]


@router.post("/completions", response_model=None)
async def create_completion(
    request: Request, body: CompletionRequest, caller: Inferrer, service: TheService
) -> Response:
    """Continue one or more prompts."""
    require_completion(body)
    named = await name_model(service, caller, body.model)
    request.state.model_headers = tell_stand_in(service.settings, body.model)
    passed_on = await proxied(service, named, request)
    if passed_on is not None:
        return passed_on
    model = await open_model(service, named)
    prompts = await run_in_threadpool(_prepare, model, body, caller.project_id)
    vocabulary = vocabulary_of(model.encoder)
    head = TextHead(new_id("cmpl-"), now(), body.model, fingerprint(named), vocabulary, body.logprobs)
    completion = _Completion(service, caller, model, body, prompts, head)
    if body.stream:
        return await open_stream(_chunks(completion), request, {})
    made = await unless_gone(request, _complete(completion))
    return Response(status_code=CLIENT_GONE) if made is None else JSONResponse(made)


def _prepare(model: "OpenModel", request: CompletionRequest, cache_salt: str) -> tuple[_Prompt, ...]:
    prompts = prompts_of(request)
    many = len(prompts) > 1
    return tuple(
        _prepare_one(model, request, prompt, f"prompt[{number}]" if many else "prompt", cache_salt)
        for number, prompt in enumerate(prompts)
    )


def _prepare_one(
    model: "OpenModel", request: CompletionRequest, prompt: str | list[int], where: str, cache_salt: str
) -> _Prompt:
    ids, num_hidden = _read_prompt(model, prompt, where)
    limit, wanted = model.context_tokens, request.max_tokens
    most = DEFAULT_MAX_TOKENS if wanted is None else wanted
    if limit is not None and (len(ids) >= limit or len(ids) + (wanted or 0) > limit):
        raise _too_long(limit, len(ids), most)
    tells = request.logprobs is not None or bool(request.best_of and request.best_of > (request.n or 1))
    asked = asked_of(
        request,
        model,
        ids,
        max_new_tokens=most if limit is None else min(most, limit - len(ids)),
        top_logprobs=(request.logprobs or 0) if tells else None,
        tell_prompt=bool(request.echo) and request.logprobs is not None,
        cache_salt=cache_salt,
    )
    num_answers = max(request.n or 1, request.best_of or 1)
    wish = Wish(asked, num_answers, read_stops(request.stop), drops_space=False)
    text = ""
    if request.echo:
        # A prompt that came as text goes back as it came, whatever its tokens spell.
        text = prompt if isinstance(prompt, str) else vocabulary_of(model.encoder).read_prompt(ids)[0]
    return _Prompt(Echoed(text, num_hidden, bool(request.echo)), wish)


def _read_prompt(model: "OpenModel", prompt: str | list[int], where: str) -> tuple[list[int], int]:
    """A prompt's tokens, and how many of them in front are none that the client sent."""
    encoder = model.encoder
    if not isinstance(prompt, str):
        num_tokens = vocabulary_of(encoder).num_tokens
        wrong = next((token for token in prompt if token >= num_tokens), None)
        if wrong is not None:
            told = f"Invalid value for '{where}': {wrong} is no token of this model, which has {num_tokens}."
            raise invalid(where, told)
        return prompt, 0
    begun = model.template.kind == "document" and not prompt.startswith(encoder.end)
    ids = encoder.encode_prompt(encoder.end + prompt if begun else prompt)
    if not ids:
        # Nothing to continue: a new document, behind the token that ends the one before.
        return [encoder.end_id], 1
    plain = encoder.encode_texts([prompt])[0]
    return ids, len(ids) - len(plain) if ids[len(ids) - len(plain) :] == plain else 0


def _too_long(limit: int, num_prompt: int, num_answer: int) -> ApiError:
    message = (
        f"This model's maximum context length is {limit} tokens, however you requested {num_prompt + num_answer} "
        f"tokens ({num_prompt} in your prompt; {num_answer} for the completion). Please reduce your prompt; or "
        "completion length."
    )
    return ApiError(400, message, param="prompt", code="context_length_exceeded")


async def _told(completion: _Completion) -> AsyncGenerator[Delta | Finish, None]:
    """What all answers to all prompts give, counted, each under a number of its own."""
    wishes = completion.wishes
    prompt_tokens = [len(wish.asked.prompt_ids) for wish in wishes]
    limited = completion.request.max_tokens is not None
    most = sum(_expected(wish, limited=limited) for wish in wishes)
    async with AsyncExitStack() as stack:
        spent = await stack.enter_async_context(spending(completion.service, completion.caller, prompt_tokens, most))
        told = await stack.enter_async_context(aclosing(follow(completion.model, wishes)))
        async for each in told:
            note(completion.service, spent, each)
            yield each


def _expected(wish: Wish, *, limited: bool) -> int:
    most = wish.asked.max_new_tokens
    return wish.num_answers * (most if limited else min(most, EXPECTED_TOKENS))


async def _complete(completion: _Completion) -> dict[str, Any]:
    made = [[TextParts(prompt.echoed) for _ in range(prompt.wish.num_answers)] for prompt in completion.prompts]
    parts = [each for group in made for each in group]
    async with aclosing(_told(completion)) as told:
        async for each in told:
            parts[each.index].take(each)
    best = [choice for group in made for choice in _best(group, completion.num_answers)]
    choices = [choice_object(completion.head, index, part.whole()) for index, part in enumerate(best)]
    return {**head_object(completion.head), "choices": choices, "usage": _usage(made)}


def _best(answers: Sequence[TextParts], count: int) -> Sequence[TextParts]:
    """The answers whose tokens are the likeliest on average; as they were drawn where none is dropped."""
    if len(answers) == count:
        return answers
    return sorted(answers, key=lambda answer: -answer.mean_logprob)[:count]


def _usage(made: Sequence[Sequence[TextParts]]) -> dict[str, Any]:
    """Tokens of all prompts together, and of all answers, those that were not the best among them."""
    groups = [[part.finish.ended for part in group if part.finish is not None] for group in made]
    total = Ended(
        "stop",
        sum(group[0].prompt_tokens for group in groups),
        sum(group[0].cached_tokens for group in groups),
        sum(each.answer_tokens for group in groups for each in group),
    )
    return usage_object([total])


async def _chunks(completion: _Completion) -> AsyncGenerator[dict[str, Any], None]:
    options = completion.request.stream_options
    tells_usage = bool(options and options.include_usage)
    extra: dict[str, Any] = {"usage": None} if tells_usage else {}
    made = [[TextParts(prompt.echoed) for _ in range(prompt.wish.num_answers)] for prompt in completion.prompts]
    parts = [each for group in made for each in group]
    head = head_object(completion.head)
    async with aclosing(_told(completion)) as told:
        async for each in told:
            part = parts[each.index]
            part.take(each)
            piece = part.next_piece()
            if piece is not None:
                yield {**head, "choices": [choice_object(completion.head, each.index, piece)], **extra}
    if tells_usage:
        yield {**head, "choices": [], "usage": _usage(made)}
