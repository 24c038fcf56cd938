"""QLoRA: low-rank adapters beside weights of 4 bits (Dettmers et al. 2023, arXiv:2305.14314, eq. 5).

The 4 bits are for training alone: what is written is a LoRA folder like any other, and it is evaluated, merged and
shipped on the base model's own weights. Shapes: N positions, I in, O out, R rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.methods.adapted_linear import AdaptedLinear, DoraLinear
from kivnun.methods.base import replace_module
from kivnun.methods.lora import Lora
from kivnun.models.linear_layers import LinearLayer, is_transposed, linear_layer
from kivnun.models.quantize import QuantizedLinear, return_freed_memory
from kivnun.models.types import Model
from kivnun.recipe.methods import QloraMethod

Dequantize = Callable[[torch.dtype], Tensor]


class _QuantizedLowRank(torch.autograd.Function):
    """y = x W^T + s (x A^T) B^T as in `low_rank.py`, with W dequantised for each of its two products and never kept.

    With g = dy:  dx = g W + s (g B) A,  dA = s (g B)^T x,  dB = s g^T (x A^T).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dequantize: Dequantize
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a.to(x.dtype), b.to(x.dtype)
        low_NR = x_NI @ a_RI.T
        y_NO = F.linear(x_NI, dequantize(x.dtype), bias)
        y_NO.addmm_(low_NR, b_OR.T, alpha=scaling)
        ctx.save_for_backward(x_NI, low_NR, a_RI, b_OR)
        ctx.scaling, ctx.dequantize = scaling, dequantize  # type: ignore[attr-defined]
        ctx.shape, ctx.adapter_dtype = x.shape, a.dtype  # type: ignore[attr-defined]
        return y_NO.view(*x.shape[:-1], b.shape[0])

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        x_NI, low_NR, a_RI, b_OR = ctx.saved_tensors  # type: ignore[attr-defined]
        g_NO = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        scaling, dtype = ctx.scaling, ctx.adapter_dtype  # type: ignore[attr-defined]
        gb_NR = (g_NO @ b_OR).mul_(scaling)
        grad_a = (gb_NR.T @ x_NI).to(dtype)
        grad_b = (g_NO.T @ low_NR).mul_(scaling).to(dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            weight = ctx.dequantize(g_NO.dtype)  # type: ignore[attr-defined]
            grad_x = (g_NO @ weight).addmm_(gb_NR, a_RI).view(ctx.shape)  # type: ignore[attr-defined]
        return grad_x, None, grad_a, grad_b, None, None


def quantized_low_rank_linear(
    x: Tensor, dequantize: Dequantize, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
) -> Tensor:
    """A quantised linear layer with a low-rank update, `x W^T + bias + scaling (x A^T) B^T`.

    Args:
        x: Shape (..., I).
        dequantize: Gives the frozen weight W (O, I) in a dtype.
        bias: Shape (O,) or None, frozen too.
        a: Shape (R, I), of any dtype; computed in that of `x`.
        b: Shape (O, R), likewise.
        scaling: s.
    """
    return cast("Tensor", _QuantizedLowRank.apply(x, bias, a, b, scaling, dequantize))


class QuantizedAdapted(AdaptedLinear):
    """A linear layer with low-rank factors whose frozen weight is in 4 bits.

    Args:
        base: The layer to adapt; its weight is rounded to what the 4 bits stand for.
        settings: Rank, scaling, dropout and the format of the 4 bits.
        generator: Source of A's initial values.
    """

    base: QuantizedLinear  # type: ignore[assignment]

    def __init__(self, base: LinearLayer, settings: QloraMethod, *, generator: torch.Generator) -> None:
        quantized = _round(base, settings)
        super().__init__(base, settings, generator=generator)
        self.base = quantized

    def base_weight(self) -> Tensor:
        """What the frozen weight (O, I) stands for, in float32."""
        base: nn.Module = self.base
        # Also asked while the layer is made, before the 4 bits are in place.
        return base.dequantize(torch.float32) if isinstance(base, QuantizedLinear) else super().base_weight()


class QloraLinear(QuantizedAdapted):
    """A frozen linear layer in 4 bits with LoRA's update."""

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output, in the dtype of `x`."""
        if self.training and self.dropout > 0:
            return self.base(x) + self.low_rank_part(F.dropout(x, self.dropout))
        base = self.base
        return quantized_low_rank_linear(x, base.dequantize, base.bias, self.lora_A, self.lora_B, self.scaling)


class QdoraLinear(QuantizedAdapted, DoraLinear):
    """A frozen linear layer in 4 bits with DoRA's update."""

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output, in the dtype of `x`; the formula is `DoraLinear`'s."""
        c_O = self.lora_magnitude_vector / self.row_lengths()
        base = self.base
        if self.training and self.dropout > 0:
            dropped = F.dropout(x, self.dropout)
            update = (c_O - 1) * base.product(dropped) + c_O * self.low_rank_part(dropped)
            return base(x) + update.to(x.dtype)
        y = c_O * quantized_low_rank_linear(x, base.dequantize, None, self.lora_A, self.lora_B, self.scaling)
        return (y if base.bias is None else y + base.bias).to(x.dtype)

    @torch.no_grad()
    def row_lengths(self) -> Tensor:
        """||W + s B A|| of each row, shape (O,)."""
        return (self.base_weight() + self.delta()).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


def _round(linear: LinearLayer, settings: QloraMethod) -> QuantizedLinear:
    """The layer in 4 bits; its own weight becomes what they stand for, so that all that is made from it agrees."""
    quantized = QuantizedLinear(linear, quant_type=settings.quant_type, double_quant=settings.double_quant)
    rounded_OI = quantized.dequantize(linear.weight.dtype)
    # A parameter of its own: another layer may share the one that was there.
    rounded = rounded_OI.T.contiguous() if is_transposed(linear) else rounded_OI
    linear.weight = nn.Parameter(rounded, requires_grad=False)
    return quantized


@dataclass(frozen=True)
class Qlora(Lora):
    """The method `qlora`: low-rank adapters on linear layers in 4 bits, in PEFT's folder format for LoRA."""

    settings: QloraMethod

    def put_adapters(self, model: Model, names: Sequence[str], generator: torch.Generator) -> None:
        """Put the named linear layers into 4 bits with an adapter on each; embeddings, norms and the head stay.

        Layer by layer, so that no more than one dense weight is there beside its 4 bits.
        """
        kind = QdoraLinear if self.settings.use_dora else QloraLinear
        for name in names:
            base = linear_layer(model, name)
            adapted = kind(base, self.settings, generator=generator)
            replace_module(model, name, adapted.train(base.training))
            del base
            return_freed_memory()
