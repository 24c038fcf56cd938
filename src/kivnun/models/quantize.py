r"""Linear layers whose frozen weight is kept in 4 bits (Dettmers et al. 2023, arXiv:2305.14314, eq. 5 and 6).

Each block of 64 weights shares one scale c2, its largest magnitude; a weight is the nearest of 16 values times c2. With
double quantisation the scales themselves are kept in 8 bits, in blocks of 256 with a float32 scale c1 each:

    W = code4[w] * c2,   c2 = code8[s] * c1 + mean(c2)

A weight takes 4 + 32/64 = 4.5 bits, with double quantisation 4 + 8/64 + 32/(64 * 256) = 4.127 bits.
Shapes: I in, O out; leading axes are free.
"""

import ctypes
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.models.late_imports import load_bitsandbytes
from kivnun.models.linear_layers import LinearLayer, linear_layer, weight_matrix

BLOCK_SIZE = 64
SCALE_BLOCK_SIZE = 256


class QuantizedLinear(nn.Module):
    """A linear layer with its weight in 4 bits, dequantised where it is needed and never kept.

    Args:
        linear: The layer whose weight is quantised; it is left as it is, and its bias is taken over, frozen.
        quant_type: `nf4` or `fp4`.
        double_quant: Whether the scales of the blocks are quantised as well.
    """

    def __init__(self, linear: LinearLayer, *, quant_type: str, double_quant: bool) -> None:
        super().__init__()
        functional = load_bitsandbytes().functional
        # Kept as (O, I) whichever way round the layer had it: blocks of weights then belong to one output.
        weight = weight_matrix(linear).detach().contiguous()
        (self.out_features, self.in_features), self.quant_type = weight.shape, quant_type
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        packed, scales = torch.ops.bitsandbytes.quantize_4bit.default(weight, BLOCK_SIZE, quant_type, torch.uint8)
        code = offset = scales_of_scales = None
        if double_quant:
            # Given explicitly: bitsandbytes keeps its own on the device that asked first, were it the meta device.
            code = functional.create_dynamic_map().to(weight.device)
            offset = scales.mean()
            scales, scales_of_scales = torch.ops.bitsandbytes.quantize_blockwise.default(
                scales - offset, code, SCALE_BLOCK_SIZE
            )
        self.register_buffer("weight_4bit", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("scales_of_scales", scales_of_scales)
        self.register_buffer("scales_offset", offset)
        self.register_buffer("scales_code", code)

    @property
    def num_weights(self) -> int:
        """Numbers that the 4 bits stand for."""
        return self.in_features * self.out_features

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight (O, I) that the 4 bits stand for."""
        scales = cast("Tensor", self.scales)
        if self.scales_code is not None:
            scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
                scales, self.scales_of_scales, self.scales_code, SCALE_BLOCK_SIZE, torch.float32
            )
            scales = scales + self.scales_offset
        # bitsandbytes' CPU kernel takes a row of the matrix for whole blocks. Told of one block a row, it is right for
        # every matrix; of one row for all, where the last block is not full.
        size = self.num_weights
        blocks = (size // BLOCK_SIZE, BLOCK_SIZE) if size % BLOCK_SIZE == 0 else (1, size)
        dense = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.weight_4bit, scales, BLOCK_SIZE, self.quant_type, blocks, dtype
        )
        return dense.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """`x W^T + bias` with the weight dequantised into the dtype of `x`."""
        return cast("Tensor", _FrozenLinear.apply(x, self.bias, self.dequantize))

    def product(self, x: Tensor) -> Tensor:
        """`x W^T`, without the bias."""
        return cast("Tensor", _FrozenLinear.apply(x, None, self.dequantize))

    def extra_repr(self) -> str:
        """The layer's shape and format, for printing a model."""
        double = ", double_quant" if self.scales_code is not None else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.quant_type}{double}"


class _FrozenLinear(torch.autograd.Function):
    """y = x W^T + bias with dx = g W; W is dequantised for each of the two products and kept for neither."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, bias: Tensor | None, dequantize: Callable[[torch.dtype], Tensor]
    ) -> Tensor:
        ctx.dequantize = dequantize  # type: ignore[attr-defined]
        return F.linear(x, dequantize(x.dtype), bias)

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        return grad @ ctx.dequantize(grad.dtype), None, None  # type: ignore[attr-defined]


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc does, and says how)."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def quantize_layers(model: nn.Module, names: Iterable[str], *, quant_type: str, double_quant: bool) -> None:
    """Replace the named linear layers by quantised ones, one by one, so that each dense weight is freed at once.

    Args:
        model: The model; it is changed.
        names: Full names of linear layers.
        quant_type: `nf4` or `fp4`.
        double_quant: Whether the scales of the blocks are quantised as well.
    """
    for name in names:
        linear = linear_layer(model, name)
        quantized = QuantizedLinear(linear, quant_type=quant_type, double_quant=double_quant)
        model.set_submodule(name, quantized.train(linear.training))
        del linear
        return_freed_memory()


def count_parameters(model: nn.Module) -> int:
    """Numbers of a model, those in 4 bits included."""
    in_4_bits = sum(module.num_weights for module in model.modules() if isinstance(module, QuantizedLinear))
    return in_4_bits + sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights, those in 4 bits with their scales."""
    tensors: list[Tensor] = list(model.parameters())
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            tensors += module.buffers()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
