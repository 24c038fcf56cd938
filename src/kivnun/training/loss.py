"""Cross-entropy over the trained positions only, in chunks, so that logits never exist as a whole.

Shapes: M targets, C hidden size, V vocabulary, K targets in a chunk.
"""

import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from kivnun.models.kernels import compile_kernel

# Most targets of a chunk. A larger one makes better products of the head and, uncompiled, worse use of the caches.
CHUNK_TARGETS, COMPILED_CHUNK_TARGETS = 128, 192


_compiled: ContextVar[bool] = ContextVar("compiled", default=False)


def choose_compiled_loss(*, wanted: bool) -> None:
    """Compute losses through `torch.compile` from now on, or not; they differ by rounding alone."""
    _compiled.set(wanted)


def _softmax(logits_KV: Tensor, target_K1: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of logits, and the targets' log-probabilities (K, 1); the logits may be overwritten."""
    log_p_KV = torch.log_softmax(logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32)), dim=1)
    right_K1 = log_p_KV.gather(1, target_K1)
    return logits_KV.copy_(log_p_KV.exp_()), right_K1


def _softmax_in_few_passes(logits_KV: Tensor, target_K1: Tensor) -> tuple[Tensor, Tensor]:
    """The same, written so that a compiler keeps no wide matrix between its passes."""
    wide_KV = logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32))
    top_K1 = wide_KV.amax(1, keepdim=True)
    log_sum_K1 = (wide_KV - top_K1).exp().sum(1, keepdim=True).log() + top_K1
    return (wide_KV - log_sum_K1).exp().to(logits_KV.dtype), wide_KV.gather(1, target_K1) - log_sum_K1


@cache
def _compiled_softmax() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return compile_kernel(_softmax_in_few_passes)


def _chunks(num_targets: int, most: int) -> Iterator[slice]:
    """Chunks of about equal size: a small last one would make a slow product of the whole head."""
    size = math.ceil(num_targets / max(math.ceil(num_targets / most), 1))
    return (slice(start, start + size) for start in range(0, num_targets, max(size, 1)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T`, with both gradients computed chunk by chunk in the forward pass.

    With p = softmax(h W^T), the gradient of the summed loss with respect to the logits is p - onehot(target); hence
    dh = (p - y) W and dW = (p - y)^T h. No chunk's logits outlive its turn and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_MC: Tensor,
        weight_VC: Tensor,
        target_M: Tensor,
        target_weights_M: Tensor | None,
        is_right_M: Tensor | None,
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        grad_MC = torch.empty_like(hidden_MC) if needs_hidden else None
        wide = torch.promote_types(hidden_MC.dtype, torch.float32)
        grad_VC = torch.zeros(weight_VC.shape, dtype=wide, device=weight_VC.device) if needs_weight else None
        total = torch.zeros((), dtype=wide, device=hidden_MC.device)
        softmax = _compiled_softmax() if _compiled.get() else _softmax
        for chunk in _chunks(len(target_M), COMPILED_CHUNK_TARGETS if _compiled.get() else CHUNK_TARGETS):
            h_KC, y_K1 = hidden_MC[chunk], target_M[chunk].unsqueeze(1)
            logits_KV = h_KC @ weight_VC.T
            if is_right_M is not None:
                # Not argmax, which takes several times as long for bf16 on a CPU.
                torch.eq(logits_KV.max(dim=1).indices, target_M[chunk], out=is_right_M[chunk])
            delta_KV, right_K1 = softmax(logits_KV, y_K1)
            del logits_KV
            scale_K1 = None if target_weights_M is None else target_weights_M[chunk].unsqueeze(1)
            total -= (right_K1 if scale_K1 is None else right_K1 * scale_K1).sum()
            if grad_MC is None and grad_VC is None:
                continue
            # Not the rounded p less 1: near p = 1 nothing would be left of the difference.
            delta_KV.scatter_(1, y_K1, (right_K1.exp() - 1).to(delta_KV.dtype))
            if scale_K1 is not None:
                delta_KV *= scale_K1.to(delta_KV.dtype)
            if grad_MC is not None:
                torch.mm(delta_KV, weight_VC, out=grad_MC[chunk])
            if grad_VC is not None:
                grad_VC += delta_KV.T @ h_KC
        if grad_VC is not None:
            grad_VC = grad_VC.to(weight_VC.dtype)  # it is summed wide and kept narrow, all through the backward pass
        ctx.save_for_backward(*(grad for grad in (grad_MC, grad_VC) if grad is not None))
        ctx.has_grads = (grad_MC is not None, grad_VC is not None)  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        saved = list(ctx.saved_tensors)  # type: ignore[attr-defined]
        has_hidden, has_weight = ctx.has_grads  # type: ignore[attr-defined]
        scale = grad_outputs[0]
        grad_MC = saved.pop(0) * scale if has_hidden else None
        grad_VC = saved.pop(0) * scale if has_weight else None
        return grad_MC, grad_VC, None, None, None


def require_one_state_each(hidden_MC: Tensor, target_M: Tensor) -> None:
    """Refuse hidden states that are not those of the targets, instead of taking the first of them.

    Raises:
        ValueError: There are more or fewer of them than targets.
    """
    if len(hidden_MC) != len(target_M):
        raise ValueError(f"{len(hidden_MC)} hidden states for {len(target_M)} targets")


def summed_cross_entropy(
    hidden_MC: Tensor,
    weight_VC: Tensor,
    target_M: Tensor,
    *,
    target_weights_M: Tensor | None = None,
    is_right_M: Tensor | None = None,
) -> Tensor:
    """Sum (not mean) of the targets' negative log likelihoods in nats, as a scalar of at least float32.

    The caller divides once by the number of targets of the whole optimizer step, so that a batch has the same loss
    whole and in parts.

    Args:
        hidden_MC: Hidden states at the positions before the targets.
        weight_VC: The language-model head (no bias).
        target_M: Target ids.
        target_weights_M: How much each target counts; None where all count 1.
        is_right_M: Filled with whether each target has the largest logit, which costs no second product of the head;
            None where nobody asks.

    Raises:
        ValueError: There is not one hidden state for each target.
    """
    require_one_state_each(hidden_MC, target_M)
    weights_M = None if target_weights_M is None else target_weights_M.to(hidden_MC.device)
    return cast("Tensor", _ChunkedCrossEntropy.apply(hidden_MC, weight_VC, target_M, weights_M, is_right_M))


@torch.no_grad()
def target_losses(hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor) -> Tensor:
    """Each target's negative log likelihood in nats, shape (M,), float32: for perplexity per row.

    Raises:
        ValueError: There is not one hidden state for each target.
    """
    require_one_state_each(hidden_MC, target_M)
    losses: list[Tensor] = []
    for chunk in _chunks(len(target_M), CHUNK_TARGETS):
        logits_KV = (hidden_MC[chunk] @ weight_VC.T).float()
        losses.append(torch.nn.functional.cross_entropy(logits_KV, target_M[chunk], reduction="none"))
    return torch.cat(losses) if losses else torch.zeros(0)
