"""Element-wise parts of a decoder layer with backwards derived by hand: norm, rotary embedding, gated activation.

Each part exists once. `EAGER` runs it as torch operations; `compiled_kernels` hands the same functions to
`torch.compile`, which makes one pass over memory of each. Sums are taken in float32, or in float64 for float64 inputs.

Shapes: N positions, C channels, H heads, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name of the field

P = ParamSpec("P")
R = TypeVar("R")
Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def rms_norm(x_NC: Tensor, scale_C: Tensor, eps: float) -> Pair:
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4) and the factor 1 / rms (N, 1) that its backward needs.

    Args:
        x_NC: The input.
        scale_C: The scale of each channel.
        eps: Added to the mean square.
    """
    wide_NC = _wide(x_NC)
    inverse_N1 = torch.rsqrt(wide_NC.square().mean(1, keepdim=True) + eps)
    return (wide_NC * inverse_N1 * _wide(scale_C)).to(x_NC.dtype), inverse_N1


def rms_norm_backward(dh_NC: Tensor, x_NC: Tensor, inverse_N1: Tensor, scale_C: Tensor, dx_NC: Tensor) -> Pair:
    """The gradient of a norm's input, added to another gradient of it, and the norm's output once more.

    With n = x / rms and g = dh * scale:  dx += (g - n mean(g n)) / rms.

    Args:
        dh_NC: Gradient of the output.
        x_NC: The input.
        inverse_N1: 1 / rms.
        scale_C: The scale of each channel.
        dx_NC: The gradient that reaches the input past the norm.
    """
    n_NC = _wide(x_NC) * inverse_N1
    g_NC = _wide(dh_NC) * _wide(scale_C)
    whole_NC = (g_NC - n_NC * (g_NC * n_NC).mean(1, keepdim=True)) * inverse_N1 + _wide(dx_NC)
    return whole_NC.to(x_NC.dtype), (n_NC * _wide(scale_C)).to(x_NC.dtype)


def rms_norm_scale_gradient(dh_NC: Tensor, x_NC: Tensor, inverse_N1: Tensor) -> Tensor:
    """The gradient (C,) of a norm's scale, in wide precision."""
    return (_wide(dh_NC) * _wide(x_NC) * inverse_N1).sum(0)


def rotate(x_NHD: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34), its pairs D / 2 apart as in Llama.

    Rotating by the opposite angle, with `-sin_NE`, is its backward.

    Args:
        x_NHD: Queries or keys.
        cos_NE: Cosines of the first half of the channels (E = D / 2).
        sin_NE: Sines likewise.
    """
    half = x_NHD.shape[2] // 2
    a_NHE, b_NHE = x_NHD[..., :half], x_NHD[..., half:]
    cos_N1E, sin_N1E = cos_NE.unsqueeze(1), sin_NE.unsqueeze(1)
    return torch.cat((a_NHE * cos_N1E - b_NHE * sin_N1E, b_NHE * cos_N1E + a_NHE * sin_N1E), -1)


def gate_silu(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 6): silu(gate) * up."""
    return F.silu(gate_NI) * up_NI


def gate_silu_backward(dh_NI: Tensor, gate_NI: Tensor, up_NI: Tensor) -> Triple:
    """Gradients of gate and up, and the output once more, from the gradient of the output of `gate_silu`."""
    silu_NI = F.silu(gate_NI)
    return torch.ops.aten.silu_backward(dh_NI * up_NI, gate_NI), dh_NI * silu_NI, silu_NI * up_NI


def gate_gelu(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """GeGLU (Shazeer 2020, arXiv:2002.05202, eq. 6) with the tanh form of gelu: gelu(gate) * up."""
    return F.gelu(gate_NI, approximate="tanh") * up_NI


def gate_gelu_backward(dh_NI: Tensor, gate_NI: Tensor, up_NI: Tensor) -> Triple:
    """Gradients of gate and up, and the output once more, from the gradient of the output of `gate_gelu`."""
    gelu_NI = F.gelu(gate_NI, approximate="tanh")
    dgate_NI = torch.ops.aten.gelu_backward(dh_NI * up_NI, gate_NI, approximate="tanh")
    return dgate_NI, dh_NI * gelu_NI, gelu_NI * up_NI


@dataclass(frozen=True)
class Kernels:
    """The parts of a decoder layer in one form, eager or compiled; see the functions of the same names."""

    rms_norm: Callable[[Tensor, Tensor, float], Pair]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Pair]
    rms_norm_scale_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    gates: dict[str, Callable[[Tensor, Tensor], Tensor]]
    gates_backward: dict[str, Callable[[Tensor, Tensor, Tensor], Triple]]


EAGER = Kernels(
    rms_norm,
    rms_norm_backward,
    rms_norm_scale_gradient,
    rotate,
    {"silu": gate_silu, "gelu": gate_gelu},
    {"silu": gate_silu_backward, "gelu": gate_gelu_backward},
)


@cache
def compiled_kernels() -> Kernels:
    """`EAGER` through `torch.compile`; each part is compiled when it is first called."""
    return Kernels(
        compile_kernel(rms_norm),
        compile_kernel(rms_norm_backward),
        compile_kernel(rms_norm_scale_gradient),
        compile_kernel(rotate),
        {name: compile_kernel(gate) for name, gate in EAGER.gates.items()},
        {name: compile_kernel(gate) for name, gate in EAGER.gates_backward.items()},
    )


def compile_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A function of tensors through `torch.compile`, for any number of rows of its matrices."""
    compiled = torch.compile(function)

    def call(*inputs: P.args, **named: P.kwargs) -> R:
        for value in inputs:
            # Only the number of positions changes from batch to batch: it alone stays open in the compiled code.
            if isinstance(value, Tensor) and value.ndim > 1:
                torch._dynamo.maybe_mark_dynamic(value, 0)  # pyright: ignore[reportPrivateUsage]
        return compiled(*inputs, **named)

    return cast("Callable[P, R]", call)
