"""The seam between a model and everything that asks it for tokens: `Engine`, its answer and what it refuses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling


@dataclass(frozen=True)
class Generation:
    """One greedy answer.

    Attributes:
        token_ids: The answer, without the stop token.
        finished: "stop" when the model ended the answer, "length" when `max_new_tokens` or the model's context did.
        top_two_margins: Best minus second-best logit of every step, with the step that chose the stop token; None where
            an engine cannot tell.
    """

    token_ids: tuple[int, ...]
    finished: Literal["stop", "length"]
    top_two_margins: tuple[float, ...] | None = None


class Engine(Protocol):
    """A model that turns prompts into tokens. The text side (templates, decoding) is the caller's.

    Attributes:
        name: Shown in errors and reports.
    """

    name: str

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None for no limit."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop_ids: frozenset[int]
    ) -> list[Generation]:
        """Answer every prompt greedily, in the order given.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: At most this many tokens an answer; fewer where the model's context ends.
            stop_ids: Tokens that end an answer.
        """
        ...

    def stream(
        self, prompt_ids: Sequence[int], *, max_new_tokens: int, stop_ids: frozenset[int], sampling: Sampling
    ) -> Iterator[int]:
        """Answer one prompt token by token, without the stop token.

        Args:
            prompt_ids: Token ids of the prompt.
            max_new_tokens: At most this many tokens; fewer where the model's context ends.
            stop_ids: Tokens that end the answer.
            sampling: How each token is chosen.
        """
        ...

    def forced_logits(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """What the model would choose from at each step of a given answer: A + 1 times the logits, shape (V,).

        Args:
            prompt_ids: Token ids of the prompt.
            answer_ids: The A tokens of the answer, whatever the model itself would choose.
        """
        ...


def require_prompts_fit(prompts: Sequence[Sequence[int]], *, context_tokens: int | None, engine: str) -> None:
    """Refuse prompts that are empty or leave no room for an answer; cutting them would change the question unseen.

    Args:
        prompts: Token ids of each prompt.
        context_tokens: How many tokens prompt and answer may have together; None for no limit.
        engine: Name shown in the error.

    Raises:
        UserError: prompt-invalid.
    """
    problems = [f"prompt {number} is empty" for number, prompt in enumerate(prompts) if not prompt]
    if context_tokens is not None:
        problems += [
            f"prompt {number} has {len(prompt)} tokens; prompt and answer may have {context_tokens} together"
            for number, prompt in enumerate(prompts)
            if len(prompt) >= context_tokens
        ]
    if problems:
        raise UserError(
            "prompt-invalid",
            f"{len(problems)} of {len(prompts)} prompts cannot be answered by {engine}",
            hint="shorten the prompts, or take a base model with a longer context",
            details=problems[:20],
        )


def answer_room(prompt_tokens: int, *, max_new_tokens: int, context_tokens: int | None) -> int:
    """How many tokens an answer may have: `max_new_tokens`, or what is left of the context."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1 (got {max_new_tokens})")
    return max_new_tokens if context_tokens is None else min(max_new_tokens, context_tokens - prompt_tokens)


def logits_not_finite(engine: str) -> UserError:
    """The error of a model that produces NaN: its best token would be an arbitrary one."""
    return UserError(
        "logits-not-finite",
        f"the model behind {engine} produced logits that are NaN or infinite",
        hint="check the model's weights; a training run that diverged leaves such weights",
    )
