"""How far a form's predicted distributions are from the reference's, by one definition for every kind of engine.

At each step of the reference's own answer, the reference's 16 likeliest tokens are told apart and all others share a
bucket. The divergence is the Kullback-Leibler divergence KL(reference || form), in nats, of these 17 outcomes. By the
data-processing inequality (Cover and Thomas 2006, section 2.8) it is never more than that of the whole vocabulary; and
an endpoint that tells the probabilities of a few tokens only can be held to it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.generation.engine import Engine, Generation

TOP_TOKENS = 16
# Stands for a probability of zero, which endpoints that round may report.
SMALLEST_LOG_P = -100.0


@dataclass(frozen=True)
class Step:
    """What the reference predicts at one step of its answer.

    Attributes:
        ids: Its likeliest tokens, best first.
        log_p: Their log-probabilities, then that of all other tokens together; float32 values, as they are kept.
    """

    ids: tuple[int, ...]
    log_p: tuple[float, ...]


def reference_step(logits_V: NDArray[np.float32]) -> Step:
    """The likeliest tokens of a prediction and their log-probabilities."""
    count = min(TOP_TOKENS, len(logits_V))
    ids = np.argpartition(-logits_V, count - 1)[:count]
    ids = ids[np.argsort(-logits_V[ids], kind="stable")]
    return Step(tuple(ids.tolist()), bucket_log_p(logits_V, ids.tolist()))


def bucket_log_p(logits_V: NDArray[np.float32], ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probabilities of some tokens, then that of all others together, as float32 values."""
    scores_V = logits_V.astype(np.float64)
    is_other = np.ones(len(scores_V), dtype=bool)
    is_other[list(ids)] = False
    others = _log_sum_exp(scores_V[is_other]) if is_other.any() else -np.inf
    log_p = np.array([*scores_V[list(ids)], others]) - _log_sum_exp(scores_V)
    return tuple(np.maximum(log_p, SMALLEST_LOG_P).astype(np.float32).tolist())


def _log_sum_exp(scores_V: NDArray[np.float64]) -> float:
    """The logarithm of a sum of exponentials; several times faster than adding one by one with `logaddexp`."""
    peak = scores_V.max()
    return float(peak + np.log(np.exp(scores_V - peak).sum()))


def divergence(reference: Sequence[float], other: Sequence[float]) -> float:
    """KL(reference || other) in nats of two predictions over the same outcomes, from their log-probabilities."""
    log_p, log_q = (np.asarray(values, dtype=np.float64) for values in (reference, other))
    # Rounding alone may make a sum of nearly nothing negative.
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q))))


def merge_outcomes(log_p: Sequence[float], kept: Sequence[int]) -> list[float]:
    """The same prediction with fewer outcomes told apart: those at the places `kept`; the rest joins the last one."""
    rest = [value for place, value in enumerate(log_p) if place not in set(kept)]
    return [*(log_p[place] for place in kept), float(np.logaddexp.reduce(rest))]


def predict_steps(engine: Engine, prompt_ids: Sequence[int], answer: Generation) -> list[Step]:
    """What an engine predicts at each step of an answer, the step at which it ends included.

    Args:
        engine: The reference.
        prompt_ids: Token ids of the prompt.
        answer: Its answer to it.
    """
    steps = engine.forced_logits(prompt_ids, answer.token_ids[: num_steps(answer) - 1])
    return [reference_step(logits_V) for logits_V in steps]


def num_steps(answer: Generation) -> int:
    """How many tokens an answer chose, the one that ends it included."""
    return len(answer.token_ids) + (answer.finished == "stop")


@dataclass(frozen=True)
class Forced:
    """A form led along the reference's answer to one prompt.

    Attributes:
        agreed: Steps at which it would choose the same token.
        steps: All steps.
        divergences: The divergence of each step; empty where the reference's predictions were not kept.
    """

    agreed: int
    steps: int
    divergences: tuple[float, ...] = ()


def force(
    engine: Engine,
    prompt_ids: Sequence[int],
    answer: Generation,
    *,
    stop_ids: frozenset[int],
    predicted: Sequence[Step] = (),
) -> Forced:
    """Lead a form along the reference's answer, and see at each step what it would choose.

    Args:
        engine: The form.
        prompt_ids: Token ids of the prompt.
        answer: The reference's answer.
        stop_ids: Tokens that end an answer; any of them is the same choice.
        predicted: What the reference predicts at each step, where that was kept.
    """
    total = num_steps(answer)
    agreed = 0
    divergences: list[float] = []
    for number, logits_V in enumerate(engine.forced_logits(prompt_ids, answer.token_ids[: total - 1])):
        chosen = int(logits_V.argmax())
        ends = number == len(answer.token_ids)
        agreed += chosen in stop_ids if ends else chosen == answer.token_ids[number]
        if predicted:
            step = predicted[number]
            divergences.append(divergence(step.log_p, bucket_log_p(logits_V, step.ids)))
    return Forced(agreed, total, tuple(divergences))
