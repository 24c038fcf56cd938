"""How one token is chosen from logits; every engine uses this code, so that all of them sample alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Divides the logits; 0 always takes the best token.
        top_p: Keep the fewest best tokens whose probabilities reach this sum; 1 keeps all.
        top_k: Keep this many best tokens; 0 keeps all.
        seed: Makes the draws repeatable; None draws anew each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 <= self.temperature <= 100.0:
            problems.append(f"temperature must be from 0 to 100 (got {self.temperature})")
        if not 0.0 < self.top_p <= 1.0:
            problems.append(f"top_p must be greater than 0 and at most 1 (got {self.top_p})")
        if self.top_k < 0:
            problems.append(f"top_k must be 0 (all tokens) or more (got {self.top_k})")
        if self.seed is not None and self.seed < 0:
            problems.append(f"seed must be 0 or more (got {self.seed})")
        if problems:
            raise UserError("sampling-invalid", problems[0], hint="mend the value", details=problems[1:])


def start_draws(sampling: Sampling) -> np.random.Generator:
    """The source of randomness of one answer."""
    return np.random.default_rng(sampling.seed)


def choose_token(logits_V: NDArray[np.float32], sampling: Sampling, draws: np.random.Generator) -> int:
    """Choose one token.

    Args:
        logits_V: One finite logit per token of the vocabulary.
        sampling: How to choose.
        draws: Advanced by one number, unless the temperature is 0.
    """
    if sampling.temperature == 0.0:
        return int(logits_V.argmax())
    # The draw walks the tokens in the order of their ids, not of their probabilities: two engines whose logits differ
    # in the last bit then still draw the same token, even where that bit swaps two neighbours in the ranking.
    cumulative_V = np.cumsum(token_probabilities(logits_V, sampling))
    token = int(np.searchsorted(cumulative_V, draws.random() * cumulative_V[-1], side="right"))
    return min(token, len(logits_V) - 1)


def token_probabilities(logits_V: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The distribution that is drawn from: temperature, then top_k, then top_p, as transformers orders them."""
    scaled_V = logits_V.astype(np.float64) / sampling.temperature
    weights_V = np.exp(scaled_V - scaled_V.max())
    if 0 < sampling.top_k < len(weights_V):
        weights_V[np.argsort(-weights_V, kind="stable")[sampling.top_k :]] = 0.0
    weights_V /= weights_V.sum()
    if sampling.top_p < 1.0:
        best_first = np.argsort(-weights_V, kind="stable")
        before = np.cumsum(weights_V[best_first]) - weights_V[best_first]
        weights_V[best_first[before >= sampling.top_p]] = 0.0
        weights_V /= weights_V.sum()
    return weights_V
