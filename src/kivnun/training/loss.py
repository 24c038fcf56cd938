"""Cross-entropy over the trained positions only, in chunks, so that logits never exist as a whole.

Shapes: M targets, C hidden size, V vocabulary, K targets in a chunk.
"""

from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_TARGETS = 128


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T`, with both gradients computed chunk by chunk in the forward pass.

    With p = softmax(h W^T), the gradient of the summed loss with respect to the logits is p - onehot(target); hence
    dh = (p - y) W and dW = (p - y)^T h. No chunk's logits outlive its turn and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor, target_weights_M: Tensor | None
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        grad_MC = torch.empty_like(hidden_MC) if needs_hidden else None
        wide = torch.promote_types(hidden_MC.dtype, torch.float32)
        grad_VC = torch.zeros(weight_VC.shape, dtype=wide, device=weight_VC.device) if needs_weight else None
        total = torch.zeros((), dtype=wide, device=hidden_MC.device)
        for start in range(0, len(target_M), CHUNK_TARGETS):
            chunk = slice(start, start + CHUNK_TARGETS)
            h_KC, y_K = hidden_MC[chunk], target_M[chunk].unsqueeze(1)
            logits_KV = (h_KC @ weight_VC.T).to(wide)
            log_p_KV = torch.log_softmax(logits_KV, dim=1)
            right_K1 = log_p_KV.gather(1, y_K)
            scale_K1 = None if target_weights_M is None else target_weights_M[chunk].unsqueeze(1)
            total -= (right_K1 if scale_K1 is None else right_K1 * scale_K1).sum()
            if grad_MC is None and grad_VC is None:
                continue
            delta_KV = log_p_KV.exp_()
            delta_KV[torch.arange(len(h_KC), device=y_K.device), y_K[:, 0]] -= 1
            if scale_K1 is not None:
                delta_KV *= scale_K1
            delta_KV = delta_KV.to(weight_VC.dtype)
            if grad_MC is not None:
                torch.mm(delta_KV, weight_VC, out=grad_MC[chunk])
            if grad_VC is not None:
                grad_VC += delta_KV.T @ h_KC
        ctx.save_for_backward(*(grad for grad in (grad_MC, grad_VC) if grad is not None))
        ctx.has_grads = (grad_MC is not None, grad_VC is not None)  # type: ignore[attr-defined]
        ctx.weight_dtype = weight_VC.dtype  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        saved = list(ctx.saved_tensors)  # type: ignore[attr-defined]
        has_hidden, has_weight = ctx.has_grads  # type: ignore[attr-defined]
        scale = grad_outputs[0]
        grad_MC = saved.pop(0) * scale if has_hidden else None
        grad_VC = (saved.pop(0) * scale).to(ctx.weight_dtype) if has_weight else None  # type: ignore[attr-defined]
        return grad_MC, grad_VC, None, None


def summed_cross_entropy(
    hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor, *, target_weights_M: Tensor | None = None
) -> Tensor:
    """Sum (not mean) of the targets' negative log likelihoods in nats, as a scalar of at least float32.

    The caller divides once by the number of targets of the whole optimizer step, so that splitting a batch changes
    nothing.

    Args:
        hidden_MC: Hidden states at the positions before the targets.
        weight_VC: The language-model head (no bias).
        target_M: Target ids.
        target_weights_M: How much each target counts; None where all count 1.
    """
    weights_M = None if target_weights_M is None else target_weights_M.to(hidden_MC.device)
    return cast("Tensor", _ChunkedCrossEntropy.apply(hidden_MC, weight_VC, target_M, weights_M))


@torch.no_grad()
def target_losses(hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor) -> Tensor:
    """Each target's negative log likelihood in nats, shape (M,), float32: for perplexity per row."""
    losses: list[Tensor] = []
    for start in range(0, len(target_M), CHUNK_TARGETS):
        chunk = slice(start, start + CHUNK_TARGETS)
        logits_KV = (hidden_MC[chunk] @ weight_VC.T).float()
        losses.append(torch.nn.functional.cross_entropy(logits_KV, target_M[chunk], reduction="none"))
    return torch.cat(losses) if losses else torch.zeros(0)
