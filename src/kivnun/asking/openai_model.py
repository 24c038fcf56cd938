"""A chat model behind an OpenAI-compatible endpoint, asked with the official SDK."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kivnun.asking.calling import Caller, call_all
from kivnun.asking.request import Log, Reply, Request
from kivnun.asking.spec import EndpointSpec, endpoint_identity
from kivnun.errors import UserError
from kivnun.generation.endpoint import open_endpoint

if TYPE_CHECKING:
    from openai import OpenAI

Finished = Literal["stop", "length", "refused"]
_FINISHED: Mapping[str, Finished] = {"length": "length", "content_filter": "refused"}


@dataclass
class Dialect:
    """What an endpoint takes beside model and messages; found out by what it refuses.

    Attributes:
        length_field: How the longest answer is called.
        temperature: Of the sampling; None where it takes none.
        tells_usage: Whether a stream may be asked to end with its usage.
    """

    length_field: str = "max_tokens"
    temperature: float | None = 0.0
    tells_usage: bool = True

    def fields(self, max_new_tokens: int) -> dict[str, Any]:
        """The fields of a request.

        Args:
            max_new_tokens: Longest answer.
        """
        fields: dict[str, Any] = {self.length_field: max_new_tokens}
        return fields if self.temperature is None else {**fields, "temperature": self.temperature}

    def learn(self, refusal: str) -> str:
        """Leave out or rename what a refusal names; what changed, in words, or nothing.

        Args:
            refusal: Text of the error.
        """
        if "max_completion_tokens" in refusal and self.length_field == "max_tokens":
            self.length_field = "max_completion_tokens"
            return "the longest answer is given as max_completion_tokens"
        if "temperature" in refusal and self.temperature is not None:
            self.temperature = None
            return "it takes no temperature, so that its answers may differ from one time to the next"
        if "stream_options" in refusal and self.tells_usage:
            self.tells_usage = False
            return "it does not tell the tokens of a stream"
        return ""


@dataclass(frozen=True)
class OpenaiModel:
    """A model behind an OpenAI-compatible endpoint; an `AskedModel`.

    Attributes:
        client: The SDK's client, without retries of its own.
        caller: Retries, and keeps the key out of messages.
        spec: How the model is named.
        name: What people call it.
        place: The address without secrets.
        identity: Hash of address and name.
        dialect: What the endpoint takes.
        kind: Always a chat.
        context_tokens: Not told by endpoints.
    """

    client: "OpenAI"
    caller: Caller
    spec: EndpointSpec
    name: str
    place: str
    identity: str
    dialect: Dialect = field(default_factory=Dialect)
    kind: Literal["text", "chat"] = "chat"
    context_tokens: int | None = None

    @property
    def price(self) -> str | None:
        """Its name in the price table."""
        return self.spec.model

    def count_tokens(self, request: Request) -> int | None:
        """None: only the service knows its tokenizer."""
        del request

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        """Answer every request, several at once.

        Raises:
            UserError: `endpoint-failed`, or `prompt-invalid` where a request is longer than the model's context.
        """

        def answer(number: int) -> Reply:
            return self.caller.call(lambda: self._adapted(lambda: self._answer(requests[number], max_new_tokens)))

        call_all(answer, len(requests), parallel=self.spec.parallel, keep=keep, stop=self.caller.stop)

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        """Answer one request alone as a stream, with its times; those of a try that failed do not count.

        Raises:
            UserError: As for `ask`.
        """
        self.caller.stop.clear()
        return self.caller.call(lambda: self._adapted(lambda: self._stream(request, max_new_tokens)))

    def _adapted(self, make: Callable[[], Reply]) -> Reply:
        """A call that is made again when the endpoint refuses a field that can be done without."""
        from openai import BadRequestError, UnprocessableEntityError  # noqa: PLC0415 - an extra

        while True:
            before = self.dialect.fields(1), self.dialect.tells_usage
            try:
                return make()
            except (BadRequestError, UnprocessableEntityError) as error:
                learnt = self.dialect.learn(str(error))
                if learnt:
                    self.caller.log("adapted", {"model": self.name, "change": learnt})
                elif before == (self.dialect.fields(1), self.dialect.tells_usage):
                    raise
                # Else another thread has learnt it while this call was under way.

    def _answer(self, request: Request, max_new_tokens: int) -> Reply:
        from openai.types.chat import ChatCompletion  # noqa: PLC0415 - an extra

        answer = self.client.chat.completions.create(**self._fields(request, max_new_tokens))
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise self._no_answer()
        choice = answer.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            finished: Finished = "refused"
        else:
            finished = _FINISHED.get(choice.finish_reason, "stop")
        return Reply(choice.message.content or "", finished, **_tokens(answer.usage))

    def _stream(self, request: Request, max_new_tokens: int) -> Reply:
        begun = time.perf_counter()
        extra = {"stream_options": {"include_usage": True}} if self.dialect.tells_usage else {}
        fields: dict[str, Any] = {**self._fields(request, max_new_tokens), **extra, "stream": True}
        stream = self.client.chat.completions.create(**fields)
        text, usage = "", None
        finished: Finished = "stop"
        first: float | None = None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                piece = choice.delta.content or ""
                if piece and first is None:
                    first = time.perf_counter() - begun
                text += piece
                finished = _FINISHED.get(choice.finish_reason or "", finished)
        seconds = time.perf_counter() - begun
        reply = Reply(text, finished, **_tokens(usage))
        return replace(reply, seconds=seconds, first_token_seconds=first)

    def _fields(self, request: Request, max_new_tokens: int) -> dict[str, Any]:
        messages = [{"role": role, "content": text} for role, text in request.messages]
        return {"model": self.spec.model, "messages": messages, **self.dialect.fields(max_new_tokens)}

    def _no_answer(self) -> UserError:
        return UserError(
            "endpoint-failed",
            f"{self.name} at {self.place} answered something that is no chat completion",
            hint="the address ends in /v1 most often; answers so far are kept",
        )


def open_openai(spec: EndpointSpec, *, log: Log) -> OpenaiModel:
    """A model behind an OpenAI-compatible endpoint; nothing is asked yet.

    Args:
        spec: How it is named.
        log: Takes `retrying` and `adapted`.

    Raises:
        UserError: `dependency-missing` without the openai package; `endpoint-failed` without a key for OpenAI itself.
    """
    endpoint = open_endpoint(spec.base_url, key_variable=spec.key_variable)
    key = str(endpoint.client.api_key)
    if spec.is_default_address and key == "none":
        raise missing_key(spec)
    client = endpoint.client.with_options(max_retries=0, timeout=spec.timeout_seconds)
    caller = Caller(spec.model, endpoint.place, key, spec.key_variable, log, stop=threading.Event())
    dialect = Dialect(temperature=0.0 if spec.temperature is None else spec.temperature)
    identity = endpoint_identity(spec, endpoint.place)
    return OpenaiModel(client, caller, spec, f"openai:{spec.model}", endpoint.place, identity, dialect)


def missing_key(spec: EndpointSpec) -> UserError:
    """The error of a service that is asked without a key.

    Args:
        spec: How the model is named.
    """
    return UserError(
        "endpoint-failed",
        f"{spec.service}:{spec.model} needs a key, and ${spec.key_variable} is not set",
        hint=f"set ${spec.key_variable}, or name another variable with key_variable=NAME",
    )


def _tokens(usage: Any) -> dict[str, Any]:
    """What was read and written; zeros where an endpoint does not tell."""
    if usage is None:
        return {"prompt_tokens": 0, "completion_tokens": 0}
    details = usage.prompt_tokens_details
    cached = 0 if details is None else details.cached_tokens or 0
    return {
        "prompt_tokens": usage.prompt_tokens or 0,
        "completion_tokens": usage.completion_tokens or 0,
        "cached_tokens": cached,
    }
