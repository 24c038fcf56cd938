"""Models behind OpenAI-compatible endpoints: the client, and completions with the probabilities of the best tokens."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from kivnun.errors import UserError

if TYPE_CHECKING:
    from openai import OpenAI

MAX_RETRIES = 5
TIMEOUT_SECONDS = 120.0
# vLLM and llama.cpp tell 16 tokens and more, OpenAI's own service 5, some servers none.
LOGPROB_CHOICES = (16, 5, None)
REFUSED = (400, 404, 405, 413, 415, 422, 500, 501)
"""Statuses by which servers say that they do not know a request's form."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that can be asked.

    Attributes:
        client: The SDK's client; retries with growing pauses are its own.
        place: The address without what may be secret in it.
        key_variable: Environment variable that holds the key.
    """

    client: "OpenAI"
    place: str
    key_variable: str

    def failed(self, error: Exception, hint: str) -> UserError:
        """The error of a request, without the key.

        Args:
            error: What the SDK raised.
            hint: What may mend it.
        """
        key = str(self.client.api_key)
        text = str(error) if key == "none" else str(error).replace(key, "***")
        return UserError("endpoint-failed", f"{self.place}: {type(error).__name__}: {text}", hint=hint)


def open_endpoint(base_url: str, *, key_variable: str) -> Endpoint:
    """A client for an endpoint; nothing is asked yet.

    Args:
        base_url: The endpoint, up to and with `/v1`.
        key_variable: Environment variable that holds the key; the key is never written anywhere.

    Raises:
        UserError: `dependency-missing` without the openai package; `endpoint-failed` for what is no address or no key.
    """
    try:
        from openai import OpenAI  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UserError(
            "dependency-missing",
            "an endpoint is asked with the openai package, which is not installed",
            hint="pip install 'kivnun[endpoints]'",
        ) from error
    # The SDK refuses an empty key; servers on one's own machine want none.
    # A key that was read from a file often ends in a line break.
    key = os.environ.get(key_variable, "").strip() or "none"
    if not key.isascii() or any(sign.isspace() for sign in key):
        raise UserError(
            "endpoint-failed",
            f"the key in ${key_variable} holds characters that no key has",
            hint=f"set ${key_variable} to the key alone, without quotes or spaces",
        )
    if not base_url.startswith(("http://", "https://")):
        raise UserError(
            "endpoint-failed",
            f"{public_address(base_url)} is no address",
            hint="begin it with https:// (or http:// for a server of your own), and end it with /v1",
        )
    client = OpenAI(base_url=base_url, api_key=key, max_retries=MAX_RETRIES, timeout=TIMEOUT_SECONDS)
    return Endpoint(client, public_address(base_url), key_variable)


@dataclass(frozen=True)
class Completion:
    """What an endpoint answered.

    Attributes:
        text: The answer.
        finished: Why it ends.
        tokens: Its tokens as texts; empty where the endpoint does not tell.
        best: For each token, the log-probabilities of the likeliest ones by their texts; empty likewise.
    """

    text: str
    finished: Literal["stop", "length"]
    tokens: tuple[str, ...] = ()
    best: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class CompletionServer:
    """A model that completes prompts.

    Attributes:
        endpoint: Where it is.
        model: Its name there.
        takes_tokens: Whether prompts go to it as token ids, with no tokenizer of the server in between.
        num_logprobs: How many of the likeliest tokens it tells; None for none.
    """

    endpoint: Endpoint
    model: str
    takes_tokens: bool
    num_logprobs: int | None

    def complete(self, prompt: Sequence[int] | str, max_new_tokens: int) -> Completion:
        """The greedy completion of a prompt.

        Args:
            prompt: Token ids where `takes_tokens`, else the text.
            max_new_tokens: Longest answer.

        Raises:
            UserError: `endpoint-failed`.
        """
        from openai import OpenAIError  # noqa: PLC0415 - an extra

        try:
            return self._ask(prompt, max_new_tokens)
        except (OpenAIError, ValueError, AttributeError) as error:
            hint = f"check the address, --model {self.model} and the key in ${self.endpoint.key_variable}"
            raise self.endpoint.failed(error, hint) from error

    def _ask(self, prompt: Sequence[int] | str, max_new_tokens: int) -> Completion:
        extra: dict[str, Any] = {} if self.num_logprobs is None else {"logprobs": self.num_logprobs}
        given = prompt if isinstance(prompt, str) else list(prompt)
        answer = self.endpoint.client.completions.create(
            model=self.model, prompt=given, max_tokens=max_new_tokens, temperature=0.0, **extra
        )
        if not getattr(answer, "choices", None):
            raise ValueError("the answer is no text completion")
        choice = answer.choices[0]
        told = choice.logprobs
        tokens = tuple(told.tokens or ()) if told is not None else ()
        best = tuple(dict(each) for each in told.top_logprobs or ()) if told is not None else ()
        finished = "length" if choice.finish_reason == "length" else "stop"
        return Completion(choice.text, finished, tokens, best if len(best) == len(tokens) else ())


def find_server(endpoint: Endpoint, model: str, prompt_ids: Sequence[int], prompt_text: str) -> CompletionServer:
    """Find out what a server takes and tells: token ids or text, and the probabilities of how many tokens.

    Args:
        endpoint: Where it is.
        model: Its name there.
        prompt_ids: A prompt to try with.
        prompt_text: The same prompt as text.

    Raises:
        UserError: `endpoint-failed` where it takes none of them.
    """
    from openai import APIStatusError, OpenAIError  # noqa: PLC0415 - an extra

    # A server that refuses a form of the request says so at once; the SDK would take some refusals for a bad moment.
    impatient = Endpoint(endpoint.client.with_options(max_retries=1), endpoint.place, endpoint.key_variable)
    problem: Exception = ValueError("not asked")
    for prompt in (prompt_ids, prompt_text):
        for count in LOGPROB_CHOICES:
            server = CompletionServer(impatient, model, takes_tokens=prompt is prompt_ids, num_logprobs=count)
            try:
                said = server._ask(prompt, 1)
            except (OpenAIError, ValueError, AttributeError) as error:
                problem = error
                if isinstance(error, APIStatusError) and error.status_code in REFUSED:
                    continue
                break
            told = count if said.best else None
            return CompletionServer(endpoint, model, takes_tokens=prompt is prompt_ids, num_logprobs=told)
        if not isinstance(problem, APIStatusError):
            break
    hint = f"the server must offer /completions; check the address, --model {model} and ${endpoint.key_variable}"
    raise endpoint.failed(problem, hint) from problem


def public_address(base_url: str) -> str:
    """An address without what may be secret in it: user, password and query."""
    parts = urlsplit(base_url)
    # Without a scheme, user and password stand in what is taken for the path.
    if not parts.netloc:
        return base_url.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
