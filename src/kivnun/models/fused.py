"""A decoder layer of the Llama kind in two functions with backwards derived by hand, one on each side of attention.

    before:  h = norm(x);  q, k, v = projections of h;  q, k rotated
    after:   y = x + o_proj(attention);  h = norm(y);  out = y + down_proj(act(gate_proj h) * up_proj h)

What autograd would keep or compute and nobody needs is left out: norms' outputs and the gated product are computed
again in the pass that needs their inputs anyway, frozen weights get no gradient, and the input of the lowest trained
layer none either. What they keep is overwritten by nothing, so a graph may be kept and asked twice.

Shapes: N positions, C channels, I channels of the feed-forward, H heads, D head size, E = D / 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from kivnun.models.kernels import Kernels
from kivnun.models.projections import FanOut, Projection, split_tensors

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Norm:
    """An RMSNorm: its weight, what is added to the weight to give the scale (1 in Gemma), and its epsilon."""

    weight: Tensor
    offset: float
    eps: float


@dataclass(frozen=True)
class Before:
    """What stands before attention: the norm and the projections to queries, keys and values."""

    norm: Norm
    projections: tuple[Projection, ...]
    head_size: int


@dataclass(frozen=True)
class After:
    """What stands after attention: output projection, norm, gate, up and down, and the gate's activation."""

    norm: Norm
    projections: tuple[Projection, ...]
    activation: str


def before_attention(
    part: Before, kernels: Kernels, x_NC: Tensor, cos_NE: Tensor, sin_NE: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The residual stream as it came, and queries, keys and values (N, H, D).

    Args:
        part: The layer's part.
        kernels: Its element-wise parts.
        x_NC: The residual stream.
        cos_NE: Cosines of the rotary embedding.
        sin_NE: Sines.
    """
    tensors = [tensor for projection in part.projections for tensor in projection.tensors()]
    return _BeforeAttention.apply(part, kernels, x_NC, cos_NE, sin_NE, part.norm.weight, *tensors)  # type: ignore[return-value]


def after_attention(part: After, kernels: Kernels, x_NC: Tensor, attended_NC: Tensor) -> Tensor:
    """The residual stream behind the layer.

    Args:
        part: The layer's part.
        kernels: Its element-wise parts.
        x_NC: The residual stream before it.
        attended_NC: The attention's output, its heads side by side.
    """
    tensors = [tensor for projection in part.projections for tensor in projection.tensors()]
    return cast("Tensor", _AfterAttention.apply(part, kernels, x_NC, attended_NC, part.norm.weight, *tensors))


def _keep(ctx: FunctionCtx, *tensors: Tensor | None) -> None:
    """Keep tensors for the backward pass; None is kept as None, which torch's own types do not say."""
    ctx.save_for_backward(*tensors)  # pyright: ignore[reportArgumentType]


def _scale(norm: Norm, weight_C: Tensor) -> Tensor:
    return (
        weight_C if norm.offset == 0 else weight_C.to(torch.promote_types(weight_C.dtype, torch.float32)) + norm.offset
    )


class _BeforeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        part: Before,
        kernels: Kernels,
        x_NC: Tensor,
        cos_NE: Tensor,
        sin_NE: Tensor,
        weight_C: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        h_NC, inverse_N1 = kernels.rms_norm(x_NC, _scale(part.norm, weight_C), part.norm.eps)
        fan = FanOut(split_tensors(part.projections, tensors), x_NC.dtype)
        low_NR = fan.low(h_NC)
        q_NHD, k_NHD, v_NHD = (y.view(len(y), -1, part.head_size) for y in fan.forward(h_NC, low_NR))
        _keep(ctx, x_NC, inverse_N1, cos_NE, sin_NE, weight_C, low_NR, *tensors)
        ctx.part, ctx.kernels = part, kernels  # type: ignore[attr-defined]
        return x_NC, kernels.rotate(q_NHD, cos_NE, sin_NE), kernels.rotate(k_NHD, cos_NE, sin_NE), v_NHD

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Gradients:
        x_NC, inverse_N1, cos_NE, sin_NE, weight_C, low_NR, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
        part, kernels = ctx.part, ctx.kernels  # type: ignore[attr-defined]
        needed = cast("tuple[bool, ...]", ctx.needs_input_grad)  # type: ignore[attr-defined]
        dx_NC, dq_NHD, dk_NHD, dv_NHD = grads
        minus_NE = -sin_NE
        dq_NHD, dk_NHD = (kernels.rotate(d.contiguous(), cos_NE, minus_NE) for d in (dq_NHD, dk_NHD))
        grads_NO = [d.reshape(len(d), -1) for d in (dq_NHD, dk_NHD, dv_NHD)]
        fan = FanOut(split_tensors(part.projections, tensors), x_NC.dtype)
        low_grad_NR = fan.low_gradient(grads_NO)
        scale_C, dweight_C = _scale(part.norm, weight_C), None
        if needed[2] or needed[5]:
            dh_NC = fan.input_gradient(grads_NO, low_grad_NR)
            dweight_C = _weight_gradient(kernels, dh_NC, x_NC, inverse_N1, weight_C) if needed[5] else None
            dx_NC, h_NC = kernels.rms_norm_backward(dh_NC, x_NC, inverse_N1, scale_C, dx_NC)
        else:
            h_NC, _ = kernels.rms_norm(x_NC, scale_C, part.norm.eps)
        found = fan.parameter_gradients(h_NC, grads_NO, low_NR, low_grad_NR, needed[6:])
        return None, None, dx_NC if needed[2] else None, None, None, dweight_C, *found


class _AfterAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        part: After,
        kernels: Kernels,
        x_NC: Tensor,
        attended_NC: Tensor,
        weight_C: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        out, into, down = _fans(part, tensors, x_NC)
        low_out_NR = out.low(attended_NC)
        y_NC = out.forward_onto(x_NC, attended_NC, low_out_NR)
        h_NC, inverse_N1 = kernels.rms_norm(y_NC, _scale(part.norm, weight_C), part.norm.eps)
        low_into_NR = into.low(h_NC)
        gate_NI, up_NI = into.forward(h_NC, low_into_NR)
        product_NI = kernels.gates[part.activation](gate_NI, up_NI)
        low_down_NR = down.low(product_NI)
        lows = (low_out_NR, low_into_NR, low_down_NR)
        _keep(ctx, attended_NC, y_NC, inverse_N1, gate_NI, up_NI, weight_C, *lows, *tensors)
        ctx.part, ctx.kernels = part, kernels  # type: ignore[attr-defined]
        return down.forward_onto(y_NC, product_NI, low_down_NR)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Gradients:
        attended_NC, y_NC, inverse_N1, gate_NI, up_NI, weight_C, *others = ctx.saved_tensors  # type: ignore[attr-defined]
        (low_out_NR, low_into_NR, low_down_NR), tensors = others[:3], others[3:]
        part, kernels = ctx.part, ctx.kernels  # type: ignore[attr-defined]
        needed = cast("tuple[bool, ...]", ctx.needs_input_grad)  # type: ignore[attr-defined]
        out, into, down = _fans(part, tensors, y_NC)
        of_out, of_into, of_down = needed[5:9], needed[9:17], needed[17:21]
        dout = [grads[0].contiguous()]
        dlow_down_NR = down.low_gradient(dout)
        dproduct_NI = down.input_gradient(dout, dlow_down_NR)
        dgate_NI, dup_NI, product_NI = kernels.gates_backward[part.activation](dproduct_NI, gate_NI, up_NI)
        found_down = down.parameter_gradients(product_NI, dout, low_down_NR, dlow_down_NR, of_down)
        del dproduct_NI, product_NI
        dinto = [dgate_NI, dup_NI]
        dlow_into_NR = into.low_gradient(dinto)
        dh_NC = into.input_gradient(dinto, dlow_into_NR)
        dweight_C = _weight_gradient(kernels, dh_NC, y_NC, inverse_N1, weight_C) if needed[4] else None
        scale_C = _scale(part.norm, weight_C)
        dy_NC, h_NC = kernels.rms_norm_backward(dh_NC, y_NC, inverse_N1, scale_C, dout[0])
        found_into = into.parameter_gradients(h_NC, dinto, low_into_NR, dlow_into_NR, of_into)
        dlow_out_NR = out.low_gradient([dy_NC])
        dattended_NC = out.input_gradient([dy_NC], dlow_out_NR) if needed[3] else None
        found_out = out.parameter_gradients(attended_NC, [dy_NC], low_out_NR, dlow_out_NR, of_out)
        dx_NC = dy_NC if needed[2] else None
        return None, None, dx_NC, dattended_NC, dweight_C, *found_out, *found_into, *found_down


def _fans(part: After, tensors: Sequence[Tensor | None], like: Tensor) -> tuple[FanOut, FanOut, FanOut]:
    out, gate, up, down = split_tensors(part.projections, tensors)
    return FanOut([out], like.dtype), FanOut([gate, up], like.dtype), FanOut([down], like.dtype)


def _weight_gradient(kernels: Kernels, dh: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    return kernels.rms_norm_scale_gradient(dh, x, inverse).to(weight.dtype)
