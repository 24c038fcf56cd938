"""Log-probabilities of whole answers, with gradients, in chunks, so that logits never exist as a whole.

Shapes: M targets, C hidden size, V vocabulary, K targets in a chunk, D documents, R rows, P documents in a row.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from kivnun.data.packing import PackedBatch
from kivnun.training.hidden_states import target_hidden_states
from kivnun.training.loss import CHUNK_TARGETS, require_one_state_each


class _TargetLosses(torch.autograd.Function):
    """Each target's cross-entropy under `hidden @ weight.T`, with its gradient kept until its factor is known.

    With p = softmax(h W^T), the loss of target m has the gradient p_m - y_m with respect to its logits. What comes
    from above multiplies it by g_m, hence dh_m = g_m (p_m - y_m) W, where the forward pass has all but g_m, and
    dW = sum over m of g_m (p_m - y_m)^T h_m, for which the logits of a chunk are computed once more.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        grad_MC = torch.empty_like(hidden_MC) if needs_hidden else None
        losses_M = torch.empty(len(target_M), dtype=_wide(hidden_MC), device=hidden_MC.device)
        for start in range(0, len(target_M), CHUNK_TARGETS):
            chunk = slice(start, start + CHUNK_TARGETS)
            log_p_KV = _log_softmax(hidden_MC[chunk], weight_VC)
            losses_M[chunk] = -log_p_KV.gather(1, target_M[chunk].unsqueeze(1)).squeeze(1)
            if grad_MC is not None:
                delta_KV = _delta(log_p_KV, target_M[chunk]).to(weight_VC.dtype)
                torch.mm(delta_KV, weight_VC, out=grad_MC[chunk])
        kept = (hidden_MC, weight_VC, target_M) if needs_weight else ()
        ctx.save_for_backward(*kept, *(() if grad_MC is None else (grad_MC,)))
        ctx.needs = (needs_hidden, needs_weight)  # type: ignore[attr-defined]
        return losses_M

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator forgets the names
        ctx: FunctionCtx, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        saved = list(ctx.saved_tensors)  # type: ignore[attr-defined]
        needs_hidden, needs_weight = ctx.needs  # type: ignore[attr-defined]
        scale_M1 = grad_outputs[0].unsqueeze(1)
        grad_MC = None
        if needs_hidden:
            grad_MC = saved.pop()
            grad_MC = (grad_MC * scale_M1).to(grad_MC.dtype)
        if not needs_weight:
            return grad_MC, None, None
        hidden_MC, weight_VC, target_M = saved
        return grad_MC, _weight_gradient(hidden_MC, weight_VC, target_M, scale_M1), None


def _weight_gradient(hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor, scale_M1: Tensor) -> Tensor:
    grad_VC = torch.zeros(weight_VC.shape, dtype=_wide(hidden_MC), device=weight_VC.device)
    for start in range(0, len(target_M), CHUNK_TARGETS):
        chunk = slice(start, start + CHUNK_TARGETS)
        delta_KV = _delta(_log_softmax(hidden_MC[chunk], weight_VC), target_M[chunk]) * scale_M1[chunk]
        grad_VC += delta_KV.to(weight_VC.dtype).T @ hidden_MC[chunk]
    return grad_VC.to(weight_VC.dtype)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _log_softmax(hidden_KC: Tensor, weight_VC: Tensor) -> Tensor:
    return torch.log_softmax((hidden_KC @ weight_VC.T).to(_wide(hidden_KC)), dim=1)


def _delta(log_p_KV: Tensor, target_K: Tensor) -> Tensor:
    """Softmax less the target's one, in the memory of the log-probabilities."""
    delta_KV = log_p_KV.exp_()
    delta_KV[torch.arange(len(target_K), device=target_K.device), target_K] -= 1
    return delta_KV


def target_losses(hidden_MC: Tensor, weight_VC: Tensor, target_M: Tensor) -> Tensor:
    """Each target's negative log likelihood in nats, shape (M,), of at least float32, with gradients.

    Args:
        hidden_MC: Hidden states at the positions before the targets.
        weight_VC: The language-model head (no bias).
        target_M: Target ids.

    Raises:
        ValueError: There is not one hidden state for each target.
    """
    require_one_state_each(hidden_MC, target_M)
    return cast("Tensor", _TargetLosses.apply(hidden_MC, weight_VC, target_M))


@dataclass(frozen=True)
class AnswerScores:
    """What a model thinks of the documents of a batch, in the table's order: row by row.

    Attributes:
        log_probability: Shape (R, P): sum of the log-probabilities of each document's targets, each by its weight;
            float64, since what is compared are small differences of large sums.
        num_targets: Shape (R, P): number of these targets, each by its weight.
        reference: Shape (R, P): the same sum under the base model, where the table has it.
    """

    log_probability: Tensor
    num_targets: Tensor
    reference: Tensor | None

    @property
    def mean(self) -> Tensor:
        """The mean log-probability of a target of each document."""
        return self.log_probability / self.num_targets

    @property
    def log_ratio(self) -> Tensor:
        """How much likelier each document is than under the base model: the logarithm of the ratio."""
        if self.reference is None:
            raise ValueError("the table has no reference; the objective's `start` adds it")
        return self.log_probability - self.reference


def score_answers(model: nn.Module, batch: PackedBatch) -> AnswerScores:
    """Score every document of a batch."""
    hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
    losses_M = target_losses(hidden_MC, weight_VC, target_M).double()
    device = losses_M.device
    if batch.target_weights is None:
        weights_M = torch.ones_like(losses_M)
    else:
        weights_M = batch.target_weights.to(device, torch.float64)
    owner_N = torch.repeat_interleave(torch.arange(len(batch.lengths)), torch.tensor(batch.lengths))
    counts_D = torch.bincount(owner_N[batch.target_positions], minlength=len(batch.lengths)).to(device)
    # The targets of a document stand together: sums of stretches, the same ones every time on any device.
    sum_D = torch.segment_reduce(losses_M * weights_M, "sum", lengths=counts_D)
    num_D = torch.segment_reduce(weights_M, "sum", lengths=counts_D)
    places = sorted(range(len(batch.documents)), key=lambda place: batch.documents[place])
    order_D = torch.tensor(places, device=device)
    shape = (len(batch.rows), -1)
    reference_RP = None
    if batch.reference is not None:
        reference_RP = batch.reference.to(device, torch.float64)[order_D].view(shape)
    return AnswerScores(-sum_D[order_D].view(shape), num_D[order_D].view(shape), reference_RP)
