"""Linear layers that read one input, as matrix products with their gradients: plain, or with a low-rank update.

Each layer is y = x W^T + bias + s (x A^T) B^T, the update only where it has one. W may be kept in another form, such as
4 bits, and is then made anew for each product. With g = dy:

    dx = g W + s (g B) A,   dW = g^T x,   dbias = sum of g,   dA = s (g B)^T x,   dB = s g^T (x A^T)

The A of all layers are stacked, so that x is multiplied by all of them at once; dx is summed by the products
themselves.

Shapes: N positions, I in, O out, R rank (of all layers together where they are stacked).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

TENSORS_EACH = 4


@dataclass(frozen=True)
class Projection:
    """What a linear layer computes with, as its module keeps it.

    Attributes:
        weight: W (O, I), or None where it is kept in another form.
        bias: The bias (O,) or None.
        a: A (R, I) or None, of any dtype; computed in that of the input.
        b: B (O, R) or None, likewise.
        scaling: s.
        dequantize: Gives W in a dtype where `weight` is None.
    """

    weight: Tensor | None
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scaling: float = 1.0
    dequantize: Callable[[torch.dtype], Tensor] | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors that may be trained, `TENSORS_EACH` of them, for an autograd function's arguments."""
        return self.weight, self.bias, self.a, self.b

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W, in a dtype if it is kept in another form."""
        if self.weight is not None:
            return self.weight
        assert self.dequantize is not None  # noqa: S101 - one of the two is given
        return self.dequantize(dtype)


ReadProjection = Callable[[nn.Module], Projection | None]
"""What a module computes with, or None where it is no such layer."""


def read_linear(module: nn.Module) -> Projection | None:
    """The projection of a plain linear layer."""
    return Projection(module.weight, module.bias) if type(module) is nn.Linear else None


def split_tensors(projections: Sequence[Projection], tensors: Sequence[Tensor | None]) -> list[Projection]:
    """The projections with their tensors replaced by those that went through autograd."""
    return [
        replace(projection, weight=weight, bias=bias, a=a, b=b)
        for projection, (weight, bias, a, b) in zip(
            projections, (tensors[i : i + TENSORS_EACH] for i in range(0, len(tensors), TENSORS_EACH)), strict=True
        )
    ]


class FanOut:
    """Layers that read the same input, for one pass forward or back.

    Args:
        projections: The layers.
        dtype: The dtype of the computation.
    """

    def __init__(self, projections: Sequence[Projection], dtype: torch.dtype) -> None:
        self.projections, self.dtype = projections, dtype
        adapted = [p for p in projections if p.a is not None]
        self.a_RI = torch.cat([p.a for p in adapted if p.a is not None]).to(dtype) if adapted else None
        # The scaling goes into the small matrix: once an element there, not once a position.
        self.b_OR = [None if p.b is None else (p.b * p.scaling).to(dtype) for p in projections]
        self.ranks = [0 if p.a is None else p.a.shape[0] for p in projections]

    def low(self, x_NI: Tensor) -> Tensor | None:
        """The product x A^T (N, R) of all layers."""
        return None if self.a_RI is None else x_NI @ self.a_RI.T

    def parts(self, low_NR: Tensor | None) -> Sequence[Tensor | None]:
        """Each layer's columns of `low`."""
        return [None] * len(self.ranks) if low_NR is None else low_NR.split(self.ranks, 1)

    def forward(self, x_NI: Tensor, low_NR: Tensor | None) -> list[Tensor]:
        """The layers' outputs."""
        outputs: list[Tensor] = []
        for projection, b_OR, part_NR in zip(self.projections, self.b_OR, self.parts(low_NR), strict=True):
            y_NO = F.linear(x_NI, projection.matrix(self.dtype), projection.bias)
            outputs.append(y_NO if b_OR is None or part_NR is None else y_NO.addmm_(part_NR, b_OR.T))
        return outputs

    def forward_onto(self, residual_NO: Tensor, x_NI: Tensor, low_NR: Tensor | None) -> Tensor:
        """The output of a single layer added to a residual stream."""
        (projection,), (b_OR,) = self.projections, self.b_OR
        if b_OR is None or low_NR is None:
            y_NO = torch.addmm(residual_NO, x_NI, projection.matrix(self.dtype).T)
            return y_NO if projection.bias is None else y_NO.add_(projection.bias)
        # The residual stream is large beside what is added to it: it is rounded once, not for each product.
        return self.forward(x_NI, low_NR)[0].add_(residual_NO)

    def low_gradient(self, grads_NO: Sequence[Tensor]) -> Tensor | None:
        """The product s g B (N, R) of all layers."""
        if self.a_RI is None:
            return None
        return torch.cat([g_NO @ b_OR for g_NO, b_OR in zip(grads_NO, self.b_OR, strict=True) if b_OR is not None], 1)

    def input_gradient(self, grads_NO: Sequence[Tensor], low_grad_NR: Tensor | None) -> Tensor:
        """The gradient dx from those of all outputs."""
        first, *others = zip(grads_NO, self.projections, strict=True)
        dx_NI = first[0] @ first[1].matrix(self.dtype)
        for g_NO, projection in others:
            dx_NI.addmm_(g_NO, projection.matrix(self.dtype))
        return dx_NI if low_grad_NR is None or self.a_RI is None else dx_NI.addmm_(low_grad_NR, self.a_RI)

    def parameter_gradients(
        self,
        x_NI: Tensor,
        grads_NO: Sequence[Tensor],
        low_NR: Tensor | None,
        low_grad_NR: Tensor | None,
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        """The gradients of `tensors()` of each layer, None where not needed."""
        found: list[Tensor | None] = []
        da_RI = low_grad_NR.T @ x_NI if low_grad_NR is not None and any(needed[2::TENSORS_EACH]) else None
        da_parts = [None] * len(self.ranks) if da_RI is None else da_RI.split(self.ranks)
        layers = zip(self.projections, grads_NO, self.parts(low_NR), da_parts, strict=True)
        for index, (projection, g_NO, part_NR, da_part) in enumerate(layers):
            of_weight, of_bias, of_a, of_b = needed[index * TENSORS_EACH : (index + 1) * TENSORS_EACH]
            found.append(g_NO.T @ x_NI if of_weight else None)
            found.append(g_NO.sum(0) if of_bias else None)
            found.append(_like(da_part, projection.a) if of_a else None)
            db_OR = g_NO.T @ part_NR if of_b and part_NR is not None else None
            found.append(None if db_OR is None else _like(db_OR, projection.b).mul_(projection.scaling))
        return found


def _like(grad: Tensor | None, tensor: Tensor | None) -> Tensor:
    """A gradient in its tensor's dtype, in memory of its own: the stacked one is shared."""
    assert grad is not None  # noqa: S101 - asked for only where the tensor is
    assert tensor is not None  # noqa: S101
    return grad.to(tensor.dtype, copy=True)
