"""Tokens for all rows of a step at once, each chosen as `kivnun.generation.sampling` chooses it.

The answers of a server share one thread, and a vocabulary has up to 150,000 tokens: what `choose_token` sorts and adds
up over all of them is done here over blocks and over the likeliest tokens only. The draw is the same number, and it
falls on the same token unless it hits a border to the last few bits.

Shapes: B rows, V vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling, start_draws
from kivnun.serving.answers import Asked, Token

BLOCK, SPAN = 256, 64
# How far below the best logit, in temperatures, tokens are looked at for `top_p`: e^-4 of its probability, e^-8 ...
DEPTHS = (4.0, 8.0, 16.0)


@dataclass
class Chooser:
    """How the tokens of one answer are chosen, and what it has so far.

    Attributes:
        asked: What the client wants.
        draws: Its own source of randomness.
        counts: How often each token stands in the answer.
    """

    asked: Asked
    draws: np.random.Generator = field(init=False)
    counts: Counter[int] = field(default_factory=Counter[int])

    def __post_init__(self) -> None:
        """Seed the draws."""
        self.draws = start_draws(self.asked.sampling)

    @property
    def is_plain(self) -> bool:
        """Whether the best token of the model's own logits is the choice."""
        return self.asked.sampling.temperature == 0 and not self._changes_logits

    @property
    def _changes_logits(self) -> bool:
        asked = self.asked
        return bool(asked.frequency_penalty or asked.presence_penalty or asked.logit_bias or asked.constraint)

    def choose(self, logits_V: NDArray[np.float32]) -> int:
        """The next token.

        Args:
            logits_V: Finite.

        Raises:
            UserError: `sampling-invalid` for a bias on a token that there is not, `constraint-failed` where no token
                is allowed.
        """
        changed_V = self._change(logits_V) if self._changes_logits else logits_V
        if self.asked.sampling.temperature == 0:
            return int(changed_V.argmax())
        return draw_token(changed_V, self.asked.sampling, self.draws)

    def take(self, token_id: int) -> None:
        """Go on after a token that is part of the answer."""
        if self.asked.frequency_penalty or self.asked.presence_penalty:
            self.counts[token_id] += 1
        if self.asked.constraint is not None:
            self.asked.constraint.take(token_id)

    def tell(self, logits_V: NDArray[np.float32], token_id: int) -> Token:
        """The token with what the client wants to know of it."""
        if self.asked.top_logprobs is None:
            return Token(token_id)
        return told_token(logits_V, token_id, self.asked.top_logprobs)

    def _change(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        asked = self.asked
        changed_V = logits_V.copy()
        if self.counts and (asked.frequency_penalty or asked.presence_penalty):
            ids = np.fromiter(self.counts, dtype=np.int64, count=len(self.counts))
            times = np.fromiter(self.counts.values(), dtype=np.float32, count=len(self.counts))
            changed_V[ids] -= times * asked.frequency_penalty + asked.presence_penalty
        if asked.logit_bias:
            ids = np.fromiter(asked.logit_bias, dtype=np.int64, count=len(asked.logit_bias))
            if ids.min() < 0 or ids.max() >= len(changed_V):
                problem = f"logit_bias names token {ids.max()}, and the model has {len(changed_V)} tokens"
                raise UserError("sampling-invalid", problem, hint="name tokens of this model's own tokenizer")
            changed_V[ids] += np.fromiter(asked.logit_bias.values(), dtype=np.float32, count=len(ids))
        allowed = None if asked.constraint is None else asked.constraint.allowed()
        if allowed is not None:
            # A model may have more logits than its tokenizer has tokens; those beyond mean nothing.
            size = min(len(allowed), len(changed_V))
            changed_V[:size][~allowed[:size]] = -np.inf
            changed_V[size:] = -np.inf
            if not allowed[:size].any():
                raise UserError(
                    "constraint-failed",
                    "no token of the model can continue the answer as it must look",
                    hint="loosen the schema or the grammar",
                )
        return changed_V


def choose_tokens(logits_BV: NDArray[np.float32], choosers: Sequence[Chooser]) -> list[int | Exception | None]:
    """The next token of each row; None where its logits are not finite, the error where its choice failed.

    Args:
        logits_BV: Of the rows.
        choosers: Of the rows.
    """
    best_B = logits_BV.argmax(axis=1)
    # The best of a row with NaN is NaN, and that of a row with infinity is infinite.
    finite_B = np.isfinite(logits_BV[np.arange(len(best_B)), best_B]) & np.isfinite(logits_BV.min(axis=1))
    chosen: list[int | Exception | None] = []
    rows = zip(choosers, best_B.tolist(), finite_B.tolist(), logits_BV, strict=True)
    for chooser, best, is_finite, logits_V in rows:
        if not is_finite:
            chosen.append(None)
        elif chooser.is_plain:
            chosen.append(best)
        else:
            try:
                chosen.append(chooser.choose(logits_V))
            except Exception as error:  # noqa: BLE001 - the row's own, whatever it is; the caller ends the row with it
                chosen.append(error)
    return chosen


def draw_token(logits_V: NDArray[np.float32], sampling: Sampling, draws: np.random.Generator) -> int:
    """What `choose_token` draws at a temperature above 0.

    Args:
        logits_V: Finite, or minus infinity for what must not come.
        sampling: How to choose.
        draws: Advanced by one number.
    """
    size = len(logits_V)
    padded = np.empty(-(-size // BLOCK) * BLOCK)
    weights_V = padded[:size]
    np.divide(logits_V, sampling.temperature, out=weights_V, dtype=np.float64)
    weights_V -= float(logits_V.max()) / sampling.temperature
    np.exp(weights_V, out=weights_V)
    padded[size:] = 0.0
    if 0 < sampling.top_k < size:
        ids = best_ids(weights_V, sampling.top_k)
        weights = weights_V[ids]
        total = weights.sum()
    elif sampling.top_p < 1.0:
        total = weights_V.sum()
        ids = _enough(logits_V, weights_V, sampling, total)
        weights = weights_V[ids]
    else:
        return _draw_from_blocks(padded.reshape(-1, BLOCK), draws.random(), size)
    if sampling.top_p < 1.0:
        kept = _nucleus(weights / total, sampling.top_p)
        ids, weights = ids[kept], weights[kept]
    cumulative = np.cumsum(weights)
    place = int(np.searchsorted(cumulative, draws.random() * cumulative[-1], side="right"))
    return int(ids[min(place, len(ids) - 1)])


def told_token(logits_V: NDArray[np.float32], token_id: int, num_top: int) -> Token:
    """A token with its log-probability and the likeliest ones.

    Args:
        logits_V: The model's own, finite.
        token_id: The token.
        num_top: How many of the likeliest to tell.
    """
    best = float(logits_V.max())
    log_total = best + float(np.log(np.exp(logits_V - np.float32(best)).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        ids = best_ids(logits_V, min(num_top, len(logits_V)))
        ids = ids[np.argsort(-logits_V[ids], kind="stable")]
        top = tuple((int(each), float(logits_V[each]) - log_total) for each in ids)
    return Token(token_id, float(logits_V[token_id]) - log_total, top)


def best_ids(values_V: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The ids of the largest values, in rising order; of equal ones the lower ids, as a stable sort has them.

    Args:
        values_V: Without NaN.
        count: How many.
    """
    size = len(values_V)
    if count >= size:
        return np.arange(size)
    # So many spans have a value above the border, so that it cuts none of the best away, and leaves few to sort.
    spans = size // SPAN
    border = -np.inf
    if count <= spans:
        highest = values_V[: spans * SPAN].reshape(spans, SPAN).max(axis=1)
        border = np.partition(highest, spans - count)[spans - count]
    ids = np.flatnonzero(values_V >= border)
    values = values_V[ids]
    last = np.partition(values, len(values) - count)[len(values) - count]
    is_above = values > last
    is_above[np.flatnonzero(values == last)[: count - int(is_above.sum())]] = True
    return ids[is_above]


def _enough(
    logits_V: NDArray[np.float32], weights_V: NDArray[np.float64], sampling: Sampling, total: float
) -> NDArray[np.int64]:
    """The ids, in rising order, of likeliest tokens whose probabilities reach `top_p` for certain."""
    # The sum of a few differs from that of all in the last bits; a little more than asked for is on the safe side.
    wanted = (sampling.top_p + 1e-9) * total
    best = float(logits_V.max())
    for depth in DEPTHS:
        ids = np.flatnonzero(logits_V >= np.float32(best - depth * sampling.temperature))
        if weights_V[ids].sum() >= wanted:
            return ids
    return np.arange(len(weights_V))


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Which ones are the fewest best whose sum reaches `top_p`; of equal ones the first."""
    falling = np.sort(probabilities)[::-1]
    count = int(np.count_nonzero(np.cumsum(falling) - falling < top_p))
    last = falling[count - 1]
    kept = probabilities > last
    kept[np.flatnonzero(probabilities == last)[: count - int(kept.sum())]] = True
    return kept


def _draw_from_blocks(blocks: NDArray[np.float64], draw: float, size: int) -> int:
    """The token on which a draw falls: first its block, then its place there."""
    cumulative = np.cumsum(blocks.sum(axis=1))
    target = draw * cumulative[-1]
    block = min(int(np.searchsorted(cumulative, target, side="right")), len(blocks) - 1)
    inner = np.cumsum(blocks[block])
    before = cumulative[block - 1] if block else 0.0
    place = int(np.searchsorted(inner, target - before, side="right"))
    return min(block * BLOCK + min(place, BLOCK - 1), size - 1)
