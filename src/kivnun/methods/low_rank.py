r"""y = x W^T + s (x A^T) B^T as one operation, with its backward derived by hand.

Shapes: N positions, I in, O out, R rank.
"""

from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812 - the name of the field


class _LowRankLinear(torch.autograd.Function):
    """y = x W^T + s (x A^T) B^T with its backward derived by hand.

    With g = dy:  dx = g W + s (g B) A,  dA = s (g B)^T x,  dB = s g^T (x A^T).  Only x and x A^T are kept, W gets no
    gradient, and the low-rank product is added by the matrix product itself, without a temporary of the output's size.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a.to(x.dtype), b.to(x.dtype)
        low_NR = x_NI @ a_RI.T
        y_NO = F.linear(x_NI, weight, bias)
        y_NO.addmm_(low_NR, b_OR.T, alpha=scaling)
        ctx.save_for_backward(x_NI, low_NR, weight, a_RI, b_OR)
        ctx.scaling, ctx.shape, ctx.adapter_dtype = scaling, x.shape, a.dtype  # type: ignore[attr-defined]
        return y_NO.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x_NI, low_NR, weight, a_RI, b_OR = ctx.saved_tensors  # type: ignore[attr-defined]
        g_NO = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        scaling, dtype = ctx.scaling, ctx.adapter_dtype  # type: ignore[attr-defined]
        gb_NR = (g_NO @ b_OR).mul_(scaling)
        grad_a = (gb_NR.T @ x_NI).to(dtype)
        grad_b = (g_NO.T @ low_NR).mul_(scaling).to(dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            grad_x = (g_NO @ weight).addmm_(gb_NR, a_RI).view(ctx.shape)  # type: ignore[attr-defined]
        return grad_x, None, None, grad_a, grad_b, None


def low_rank_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """A linear layer with a low-rank update, `x W^T + bias + scaling (x A^T) B^T`.

    Args:
        x: Shape (..., I).
        weight: Shape (O, I), frozen: it gets no gradient.
        bias: Shape (O,) or None, frozen too.
        a: Shape (R, I), of any dtype; computed in that of `x`.
        b: Shape (O, R), likewise.
        scaling: s.
    """
    return cast("Tensor", _LowRankLinear.apply(x, weight, bias, a, b, scaling))
