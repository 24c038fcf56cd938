"""What clients ask of a model in memory, and what comes back: values alone, for scheduler, pool and HTTP alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling

EngineName = Literal["torch", "onnx"]


@dataclass(frozen=True)
class ModelAddress:
    """Where a model lies.

    Attributes:
        base: `bundled`, a folder or a Hugging Face id; for `onnx` an exported folder.
        tuned: What a training wrote, an adapter or a whole model; None for the base itself.
        engine: What computes it.
    """

    base: str
    tuned: Path | None = None
    engine: EngineName = "torch"


class Constraint(Protocol):
    """What an answer must look like: a grammar over tokens, one for each answer."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """The tokens that may come next, shape (V,), stop tokens among them where the answer may end; None for all."""
        ...

    def take(self, token_id: int) -> None:
        """Go on after a token that was allowed."""
        ...


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted.

    Attributes:
        prompt_ids: At least one token.
        max_new_tokens: At most this many tokens; fewer where the model's context ends.
        stop_ids: Tokens that end the answer.
        sampling: How each token is chosen. A seed fixes the draws; the logits may differ in their last bits with what
            runs beside the answer, and a draw so near to a border may then fall on the other side of it.
        frequency_penalty: Taken off a token's logit for each time that it stands in the answer.
        presence_penalty: Taken off once, if it stands there at all.
        logit_bias: Added to the logits of tokens.
        top_logprobs: How many of the likeliest tokens to tell with each; 0 for the chosen one alone, None for none.
        constraint: What the answer must look like.
        tell_prompt: Whether to tell the log-probabilities of the prompt's own tokens first, for `echo`.
        cache_salt: What is kept of prompts begins only those with the same salt, so that nobody learns from the time to
            a first token what others asked.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop_ids: frozenset[int]
    sampling: Sampling = field(default_factory=Sampling)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    tell_prompt: bool = False
    cache_salt: str = ""


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        token_id: The token; the stop token is never told.
        logprob: Its natural log-probability under the model's own distribution (temperature 1, before penalties);
            None if not asked for, and for the first token of a prompt.
        top: The likeliest tokens with theirs, best first.
        of_prompt: Whether it belongs to the prompt.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    of_prompt: bool = False


@dataclass(frozen=True)
class Ended:
    """The end of an answer; nothing comes after it.

    Attributes:
        reason: "stop" when the model or its constraint ended it, "length" when the room did, "cancelled" when the
            client did.
        prompt_tokens: Of the prompt.
        cached_tokens: How many of them had been computed before.
        answer_tokens: Of the answer.
    """

    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


Told = Token | Ended | UserError
"""What a receiver is given: tokens, and last the end or the error."""

Receive = Callable[[Told], None]


class Running(Protocol):
    """An answer that is being computed."""

    def cancel(self) -> None:
        """Stop computing at the next step; from any thread, more than once, and after the end too."""
        ...


class BusyError(Exception):
    """Too many answers are waiting.

    Attributes:
        retry_after_seconds: When it may be worth asking again.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after_seconds:.1f} s")
        self.retry_after_seconds = retry_after_seconds
