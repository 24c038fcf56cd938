"""What a chat request asks of a model, and its answers whole: for the route, and for whoever asks without HTTP."""

import secrets
import string
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kivnun.errors import UserError
from kivnun.server.chat.answering import Calling, Delta, Finish, FinishReason, Wish
from kivnun.server.chat.call_form import learn_form
from kivnun.server.chat.call_grammar import NO_ARGUMENTS, CallWish, Function, write_grammar
from kivnun.server.chat.messages import to_conversation
from kivnun.server.chat.prompt import Prompt, render_messages, require_room
from kivnun.server.chat.sampling_fields import asked_of, read_stops
from kivnun.server.chat.shapes import (
    AllowedToolsChoice,
    ChatRequest,
    FunctionTool,
    JsonFormat,
    NamedTool,
    SchemaFormat,
)
from kivnun.server.errors import ApiError, invalid, say_problem
from kivnun.serving.answers import Ended
from kivnun.serving.json_schema import ANY_OBJECT, Grammar, grammars_of, json_source, lark_source
from kivnun.serving.text import TextToken, vocabulary_of

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

# Where a request sets no limit and the model has a long context, or none.
DEFAULT_NEW_TOKENS = 4096
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class ChatAsk:
    """A chat request as a model is asked.

    Attributes:
        wish: The answers.
        prompt: With what of the request the model cannot read.
        limited: Whether the client said how long an answer may be.
    """

    wish: Wish
    prompt: Prompt
    limited: bool


@dataclass
class FunctionCall:
    """A call that a model made.

    Attributes:
        id: What its result will name.
        name: The function.
        arguments: JSON text.
    """

    id: str
    name: str
    arguments: str = ""


@dataclass
class ChatChoice:
    """An answer, whole.

    Attributes:
        index: Its number, from 0.
        text: What it says; "" where it only calls functions.
        calls: The functions that it calls.
        tokens: Its tokens in order.
        reason: Why it ended; set at its end.
        ended: What it took; set at its end.
    """

    index: int
    text: str = ""
    calls: list[FunctionCall] = field(default_factory=list[FunctionCall])
    tokens: list[TextToken] = field(default_factory=list[TextToken])
    reason: FinishReason = "stop"
    ended: Ended = field(default_factory=lambda: Ended("stop", 0, 0, 0))


@dataclass(frozen=True)
class ChatResult:
    """All answers to a request.

    Attributes:
        choices: In order.
    """

    choices: tuple[ChatChoice, ...]

    @property
    def usage(self) -> dict[str, object]:
        """Tokens, as the API counts them."""
        return usage_object([choice.ended for choice in self.choices])


def new_call_id() -> str:
    """An id for a call of a function."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))


def prepare_chat(model: "OpenModel", request: ChatRequest, *, cache_salt: str) -> ChatAsk:
    """What a request asks of a model; may take a second for a new schema, so that no event loop should wait for it.

    Args:
        model: That will answer.
        request: Supported in all of its fields.
        cache_salt: Of those who may share what is kept of the prompt.

    Raises:
        ApiError: 400.
    """
    messages = to_conversation(request.messages)
    tools = () if request.tool_choice == "none" else tuple(request.tools or ())
    prompt = render_messages(model, messages, [tool.model_dump(exclude_none=True) for tool in tools])
    room = require_room(model, prompt)
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    most = DEFAULT_NEW_TOKENS if limit is None else limit
    asked = asked_of(
        request,
        model,
        prompt.token_ids,
        max_new_tokens=most if room is None else min(most, room),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        cache_salt=cache_salt,
    )
    calling, grammar = _find_form(model, request, tools)
    wish = Wish(asked, request.n or 1, read_stops(request.stop), grammar, calling)
    return ChatAsk(wish, prompt, limit is not None)


async def gather_choices(told: AsyncIterator[Delta | Finish], num_answers: int) -> ChatResult:
    """Answers put together from what came.

    Args:
        told: Everything that comes.
        num_answers: How many answers that are.
    """
    choices = tuple(ChatChoice(index) for index in range(num_answers))
    texts: list[list[str]] = [[] for _ in choices]
    async for each in told:
        choice = choices[each.index]
        if isinstance(each, Finish):
            choice.reason, choice.ended, choice.text = each.reason, each.ended, "".join(texts[each.index])
            continue
        texts[each.index].append(each.text)
        choice.tokens += each.tokens
        for part in each.calls:
            if part.name is not None:
                choice.calls.append(FunctionCall(new_call_id(), part.name))
            choice.calls[part.number].arguments += part.arguments
    return ChatResult(choices)


def usage_object(ended: Sequence[Ended]) -> dict[str, object]:
    """Tokens of answers to one prompt, as the API counts them.

    Args:
        ended: The end of each; at least one.
    """
    answer_tokens = sum(each.answer_tokens for each in ended)
    return {
        "prompt_tokens": ended[0].prompt_tokens,
        "completion_tokens": answer_tokens,
        "total_tokens": ended[0].prompt_tokens + answer_tokens,
        "prompt_tokens_details": {"cached_tokens": ended[0].cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _find_form(
    model: "OpenModel", request: ChatRequest, tools: Sequence[FunctionTool]
) -> tuple[Calling | None, Grammar | None]:
    """What answers must look like, and how calls are read out of them."""
    schema = _answer_schema(request)
    if not tools:
        if schema is None:
            return None, None
        return None, _compile(model, json_source(schema), _schema_name(request), "response_format")
    try:
        form = learn_form(model.encoder, model.stop_ids)
    except UserError as error:
        raise ApiError(400, say_problem(error), param="tools", code=error.code) from error
    wish = _call_wish(request, tools, schema)
    try:
        source = lark_source(write_grammar(form, wish, vocabulary_of(model.encoder)))
    except UserError as error:
        raise ApiError(400, say_problem(error), param="tools", code=error.code) from error
    names = ", ".join(f"function '{function.name}'" for function in wish.functions)
    return Calling(form, wish.mode), _compile(model, source, names, "tools", lenient=True)


def _compile(model: "OpenModel", source: str, name: str, param: str, *, lenient: bool = False) -> Grammar:
    try:
        return grammars_of(vocabulary_of(model.encoder)).compile(source, name, lenient=lenient)
    except UserError as error:
        raise ApiError(400, say_problem(error), param=param, code=error.code) from error


def _answer_schema(request: ChatRequest) -> Mapping[str, object] | None:
    form = request.response_format
    if isinstance(form, JsonFormat):
        return ANY_OBJECT
    if isinstance(form, SchemaFormat):
        return form.json_schema.schema_ if form.json_schema.schema_ is not None else ANY_OBJECT
    return None


def _schema_name(request: ChatRequest) -> str:
    form = request.response_format
    return f"response_format '{form.json_schema.name}'" if isinstance(form, SchemaFormat) else "response_format"


def _call_wish(request: ChatRequest, tools: Sequence[FunctionTool], schema: Mapping[str, object] | None) -> CallWish:
    choice = request.tool_choice
    mode, names = "auto", {tool.function.name for tool in tools}
    if choice == "required":
        mode = "required"
    elif isinstance(choice, NamedTool):
        mode, names = "required", {choice.function.name}
    elif isinstance(choice, AllowedToolsChoice):
        mode, names = choice.allowed_tools.mode, {tool.function.name for tool in choice.allowed_tools.tools}
    functions = [
        Function(
            tool.function.name,
            NO_ARGUMENTS if tool.function.parameters is None else _object_schema(tool),
            bool(tool.function.strict),
        )
        for tool in tools
        if tool.function.name in names
    ]
    parallel = request.parallel_tool_calls is not False and not isinstance(choice, NamedTool)
    return CallWish(functions, "required" if mode == "required" else "auto", parallel, schema)


def _object_schema(tool: FunctionTool) -> Mapping[str, object]:
    """A function's parameters; `{}` is how clients write that there are none to be told apart."""
    schema = tool.function.parameters or {}
    if schema.get("type", "object") != "object":
        told = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema['type']}\"'."
        raise invalid("tools", f"Invalid schema for function '{tool.function.name}': {told}")
    return {"type": "object", **schema}


def now() -> int:
    """Seconds since 1970, as the API has them."""
    return int(time.time())
