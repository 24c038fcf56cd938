r"""y = x W^T + s (d A^T) B^T, where d is `x` after dropout, as one operation with its backward derived by hand.

Shapes: N positions, I in, O out, R rank.
"""

from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812 - the name of the field


class _DroppedLowRankLinear(torch.autograd.Function):
    """As `low_rank.py`, with another input for the update than for the frozen weight.

    With g = dy:  dx = g W,  dd = s (g B) A,  dA = s (g B)^T d,  dB = s g^T (d A^T).  Only d and d A^T are kept.
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - the operands of one product
        ctx: FunctionCtx, x: Tensor, d: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        d_NI = d.reshape(-1, d.shape[-1])
        a_RI, b_OR = a.to(x.dtype), b.to(x.dtype)
        low_NR = d_NI @ a_RI.T
        y_NO = F.linear(x.reshape(-1, x.shape[-1]), weight, bias)
        y_NO.addmm_(low_NR, b_OR.T, alpha=s)
        ctx.save_for_backward(d_NI, low_NR, weight, a_RI, b_OR)
        ctx.scaling, ctx.shape, ctx.adapter_dtype = s, x.shape, a.dtype  # type: ignore[attr-defined]
        return y_NO.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(
        ctx: FunctionCtx, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, Tensor, Tensor, None]:
        d_NI, low_NR, weight, a_RI, b_OR = ctx.saved_tensors  # type: ignore[attr-defined]
        g_NO = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        scaling, shape, dtype = ctx.scaling, ctx.shape, ctx.adapter_dtype  # type: ignore[attr-defined]
        gb_NR = (g_NO @ b_OR).mul_(scaling)
        grad_a = (gb_NR.T @ d_NI).to(dtype)
        grad_b = (g_NO.T @ low_NR).mul_(scaling).to(dtype)
        needs_x, needs_d = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        grad_x = (g_NO @ weight).view(shape) if needs_x else None
        grad_d = (gb_NR @ a_RI).view(shape) if needs_d else None
        return grad_x, grad_d, None, None, grad_a, grad_b, None


def dropped_low_rank_linear(
    x: Tensor, d: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """A linear layer with a low-rank update that reads an input of its own, `x W^T + bias + scaling (d A^T) B^T`.

    Args:
        x: Shape (..., I).
        d: `x` after dropout, of the same shape.
        weight: Shape (O, I), frozen: it gets no gradient.
        bias: Shape (O,) or None, frozen too.
        a: Shape (R, I), of any dtype; computed in that of `x`.
        b: Shape (O, R), likewise.
        scaling: s.
    """
    return cast("Tensor", _DroppedLowRankLinear.apply(x, d, weight, bias, a, b, scaling))
