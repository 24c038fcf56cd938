"""AdamW whose running averages take 8 bits each (Dettmers et al. 2022, arXiv:2110.02861).

Blocks of 256 values are scaled by their largest one and rounded to the 256 values of the paper's dynamic map, which
lie close together near zero. An update is computed in float32, one tensor at a time, so that at no moment more than
one tensor's averages exist unrounded.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from kivnun.models.late_imports import load_bitsandbytes

BLOCK_VALUES = 256
MIN_VALUES = 4096
"""Smaller tensors are not worth it; bitsandbytes keeps to the same bound."""


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), its averages in 8 bits.

    Args:
        groups: Parameter groups; each has `params` and `weight_decay`.
        lr: Learning rate.
        betas: Decay rates of the two running averages.
        eps: Added to the root of the second average.
    """

    def __init__(
        self, groups: list[dict[str, object]], *, lr: float, betas: tuple[float, float], eps: float = 1e-8
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Raises:
            TypeError: Where a closure is given, which this optimizer does not call.
        """
        if closure is not None:
            raise TypeError("AdamW8bit takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, object]) -> None:
        state = self.state[parameter]
        beta1, beta2 = group["betas"]  # type: ignore[misc]
        average = _unpack(state, "exp_avg", parameter).lerp_(gradient, 1 - beta1)
        squares = _unpack(state, "exp_avg_sq", parameter).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = float(state["step"]) + 1 if state.get("step") is not None else 1.0
        rate = float(group["lr"])  # type: ignore[arg-type]
        denominator = (squares / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - rate * float(group["weight_decay"]))  # type: ignore[arg-type]
        parameter.addcdiv_(average, denominator, value=-rate / (1 - beta1**step))
        state["step"] = torch.tensor(step)
        _pack(state, "exp_avg", average)
        _pack(state, "exp_avg_sq", squares)


def _unpack(state: dict[str, Tensor], name: str, parameter: Tensor) -> Tensor:
    """A running average in float32; zeros before the first step."""
    if f"{name}_codes" not in state:
        return torch.zeros_like(parameter, dtype=torch.float32)
    return load_bitsandbytes().functional.dequantize_blockwise(
        state[f"{name}_codes"],
        absmax=state[f"{name}_scales"],
        code=_dynamic_map(parameter.device, name == "exp_avg"),
        blocksize=BLOCK_VALUES,
    )


def _pack(state: dict[str, Tensor], name: str, value: Tensor) -> None:
    code = _dynamic_map(value.device, name == "exp_avg")
    codes, rest = load_bitsandbytes().functional.quantize_blockwise(value, code=code, blocksize=BLOCK_VALUES)
    state[f"{name}_codes"], state[f"{name}_scales"] = codes, rest.absmax


@cache
def _dynamic_map(device: torch.device, has_sign: bool) -> Tensor:  # noqa: FBT001 - a private function of two values
    """The values that 8 bits stand for; squares have no sign and so one more bit of precision."""
    return load_bitsandbytes().functional.create_dynamic_map(signed=has_sign).to(device)
