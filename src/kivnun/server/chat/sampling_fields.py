"""The fields that chat and plain completions share: how tokens are drawn, where answers end, how they are sent."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from kivnun.generation.sampling import Sampling
from kivnun.server.bodies import RequestBody
from kivnun.server.errors import ApiError, invalid
from kivnun.serving.answers import Asked
from kivnun.serving.text import vocabulary_of

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

# An infinitely small share keeps the one best token, which is what `top_p` 0 asks for.
SMALLEST_TOP_P = 1e-9
# Steps between the seeds of several answers; odd, so that none repeats (golden ratio, as in Fibonacci hashing).
SEED_STEP = 0x9E3779B97F4A7C15
MAX_STOPS = 4
NO_RANGE = "Invalid value for 'logit_bias': each key must be the number of a token, each value from -100 to 100."


class StreamOptions(RequestBody):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Pads deltas to equal sizes; off unless asked for.")


class SamplingFields(RequestBody):
    """What both kinds of completions take."""

    model: str
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="Not of the API: keeps so many best tokens.")
    user: str | None = Field(None, description="Without effect: nobody is watched.")


def read_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stop texts of a request.

    Args:
        stop: As it came.

    Raises:
        ApiError: 400, for an empty one, and for more than four.
    """
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise invalid("stop", "Invalid 'stop': a stop sequence must have at least one character.")
    if stop is not None and not 1 <= len(stops) <= MAX_STOPS:
        raise invalid("stop", f"Invalid 'stop': expected 1 to {MAX_STOPS} sequences, but got {len(stops)}.")
    return stops


def read_bias(bias: Mapping[str, float] | None, num_tokens: int) -> dict[int, float]:
    """What is added to logits, by token.

    Args:
        bias: As it came, tokens as text.
        num_tokens: How many the model has.

    Raises:
        ApiError: 400.
    """
    read: dict[int, float] = {}
    for token, value in (bias or {}).items():
        if not token.isascii() or not token.isdigit() or len(token) > 9 or not -100 <= value <= 100:
            raise invalid("logit_bias", NO_RANGE)
        if int(token) >= num_tokens:
            told = f"Invalid key in 'logit_bias': {token} is no token of this model, which has {num_tokens}."
            raise invalid("logit_bias", told)
        read[int(token)] = value
    return read


def require_stream(fields: SamplingFields) -> None:
    """Refuse options of a stream that is none.

    Args:
        fields: Of a request.

    Raises:
        ApiError: 400.
    """
    if fields.stream_options is not None and not fields.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, param="stream_options")


def to_sampling(fields: SamplingFields) -> Sampling:
    """How tokens are drawn; 1 is the API's temperature and `top_p` where none is asked for.

    Args:
        fields: Of a request.
    """
    temperature = 1.0 if fields.temperature is None else fields.temperature
    top_p = 1.0 if fields.top_p is None else max(fields.top_p, SMALLEST_TOP_P)
    seed = None if fields.seed is None else fields.seed % 2**64
    return Sampling(temperature=temperature, top_p=top_p, top_k=fields.top_k or 0, seed=seed)


def nth_seed(seed: int | None, index: int) -> int | None:
    """The seed of one of several answers, so that they differ and each can be had again.

    Args:
        seed: Of the first one.
        index: Of the answer, from 0.
    """
    return None if seed is None else (seed + index * SEED_STEP) % 2**64


def asked_of(fields: SamplingFields, model: "OpenModel", prompt_ids: Sequence[int], **rest: Any) -> Asked:
    """The answer that a request wants of a model.

    Args:
        fields: Of the request.
        model: That will answer.
        prompt_ids: The prompt.
        **rest: Further fields of `Asked`, among them `max_new_tokens`.

    Raises:
        ApiError: 400, for a bias on what is no token.
    """
    return Asked(
        tuple(prompt_ids),
        stop_ids=model.stop_ids,
        sampling=to_sampling(fields),
        frequency_penalty=fields.frequency_penalty or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        logit_bias=read_bias(fields.logit_bias, vocabulary_of(model.encoder).num_tokens),
        **rest,
    )
