"""A model behind Anthropic's Messages API, asked with the official SDK; what requests share is kept ready there."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kivnun.asking.calling import Caller, call_all
from kivnun.asking.openai_model import Finished, missing_key
from kivnun.asking.request import Log, Reply, Request
from kivnun.asking.spec import EndpointSpec, endpoint_identity
from kivnun.errors import UserError
from kivnun.generation.endpoint import public_address

if TYPE_CHECKING:
    from anthropic import Anthropic

_FINISHED: Mapping[str, Finished] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}
KEPT_READY = {"type": "ephemeral"}


@dataclass(frozen=True)
class AnthropicModel:
    """A model behind Anthropic's Messages API; an `AskedModel`.

    Attributes:
        client: The SDK's client, without retries of its own.
        caller: Retries, and keeps the key out of messages.
        spec: How the model is named.
        name: What people call it.
        place: The address without secrets.
        identity: Hash of address and name.
        kind: Always a chat.
        context_tokens: Not told by the service.
    """

    client: "Anthropic"
    caller: Caller
    spec: EndpointSpec
    name: str
    place: str
    identity: str
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
        """Answer every request; the first one alone where requests share messages, so that the others find them kept.

        Raises:
            UserError: `endpoint-failed`, or `prompt-invalid` where a request is longer than the model's context.
        """

        def answer(number: int) -> Reply:
            return self.caller.call(lambda: self._answer(requests[number], max_new_tokens))

        first = 1 if any(request.shared_messages for request in requests) else 0
        stop = self.caller.stop
        call_all(answer, first, parallel=1, keep=keep, stop=stop)
        rest = range(first, len(requests))

        def keep_rest(number: int, reply: Reply) -> None:
            keep(rest[number], reply)

        call_all(lambda number: answer(rest[number]), len(rest), parallel=self.spec.parallel, keep=keep_rest, stop=stop)

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        """Answer one request alone as a stream, with its times; those of a try that failed do not count.

        Raises:
            UserError: As for `ask`.
        """
        self.caller.stop.clear()
        return self.caller.call(lambda: self._stream(request, max_new_tokens))

    def _answer(self, request: Request, max_new_tokens: int) -> Reply:
        from anthropic.types import Message  # noqa: PLC0415 - an extra

        message = self.client.messages.create(**self._fields(request, max_new_tokens))
        if not isinstance(message, Message):
            raise UserError(
                "endpoint-failed",
                f"{self.name} at {self.place} answered something that is no message",
                hint="the address has no /v1 at its end; answers so far are kept",
            )
        return _reply(message)

    def _stream(self, request: Request, max_new_tokens: int) -> Reply:
        begun = time.perf_counter()
        first: float | None = None
        with self.client.messages.stream(**self._fields(request, max_new_tokens)) as stream:
            for _ in stream.text_stream:
                first = time.perf_counter() - begun if first is None else first
            message = stream.get_final_message()
        return _reply(message, seconds=time.perf_counter() - begun, first_token_seconds=first)

    def _fields(self, request: Request, max_new_tokens: int) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for _, text in request.messages]
        shared = min(request.shared_messages, len(blocks))
        if shared:
            # All that stands before this mark is kept ready, the system prompt first.
            blocks[shared - 1] = {**blocks[shared - 1], "cache_control": KEPT_READY}
        parts = [(role, block) for (role, _), block in zip(request.messages, blocks, strict=True)]
        system = [block for role, block in parts if role == "system"]
        turns = [{"role": role, "content": [block]} for role, block in parts if role != "system"]
        fields: dict[str, Any] = {"model": self.spec.model, "max_tokens": max_new_tokens, "messages": turns}
        if system:
            fields["system"] = system
        if self.spec.temperature is not None:
            # The SDK has no such field any more; older models still take it.
            fields["extra_body"] = {"temperature": self.spec.temperature}
        return fields


def open_anthropic(spec: EndpointSpec, *, log: Log) -> AnthropicModel:
    """A model behind Anthropic's Messages API; nothing is asked yet.

    Args:
        spec: How it is named.
        log: Takes `retrying`.

    Raises:
        UserError: `dependency-missing` without the anthropic package; `endpoint-failed` without a key.
    """
    try:
        from anthropic import Anthropic  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UserError(
            "dependency-missing",
            "Anthropic's models are asked with the anthropic package, which is not installed",
            hint="pip install 'kivnun[endpoints]'",
        ) from error
    key = os.environ.get(spec.key_variable, "").strip()
    if not key and spec.is_default_address:
        raise missing_key(spec)
    if not key.isascii() or any(sign.isspace() for sign in key):
        raise UserError(
            "endpoint-failed",
            f"the key in ${spec.key_variable} holds characters that no key has",
            hint=f"set ${spec.key_variable} to the key alone, without quotes or spaces",
        )
    if not spec.base_url.startswith(("http://", "https://")):
        raise UserError(
            "endpoint-failed",
            f"{public_address(spec.base_url)} is no address",
            hint="begin it with https:// (or http:// for a server of your own)",
        )
    client = Anthropic(base_url=spec.base_url, api_key=key or "none", max_retries=0, timeout=spec.timeout_seconds)
    place = public_address(spec.base_url)
    caller = Caller(spec.model, place, key or "none", spec.key_variable, log, stop=threading.Event())
    return AnthropicModel(client, caller, spec, f"anthropic:{spec.model}", place, endpoint_identity(spec, place))


def _reply(message: Any, **times: Any) -> Reply:
    text = "".join(block.text for block in message.content if block.type == "text")
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return Reply(
        text,
        _FINISHED.get(message.stop_reason or "", "stop"),
        usage.input_tokens + cached + written,
        usage.output_tokens,
        cached_tokens=cached,
        written_tokens=written,
        **times,
    )
