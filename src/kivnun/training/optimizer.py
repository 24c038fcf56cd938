"""Optimizers over float32 master weights: AdamW, or Muon for hidden matrices with AdamW for the rest.

A bf16 weight has 8 bits of mantissa: an update smaller than 1/256 of the weight would be lost. So the optimizer works
on float32 masters, gradients are summed in float32 over micro-batches, and the model's own weights are rounded copies.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kivnun.recipe.training import TrainingSection

_HIDDEN_MATRIX = re.compile(r"\.(layers|h|blocks)\.\d+\.")


@dataclass
class MasterWeights:
    """The trainable parameters of a model and the optimizers over their float32 masters.

    Attributes:
        parameters: The model's own trainable parameters, by name.
        masters: Float32 masters, by the same names; the very parameter where it is float32 already.
        optimizers: One or two torch optimizers that together hold every master once.
    """

    parameters: dict[str, nn.Parameter]
    masters: dict[str, nn.Parameter]
    optimizers: list[torch.optim.Optimizer]

    def collect_gradients(self) -> None:
        """Add the model's gradients to the masters' in float32 and free them; call after each micro-batch."""
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is parameter or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def scale_and_clip(self, scale: float, max_norm: float) -> float:
        """Multiply the gradients by `scale`, clip their global norm, and return the norm before clipping."""
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / norm)  # pyright: ignore[reportPrivateImportUsage]
        return norm

    def step(self, learning_rate: float) -> None:
        """One optimizer step, then round the masters into the model and clear the gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.write_back()

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the model's own weights."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs, flat: `master.NAME` and `optimizer.NAME.KEY`."""
        flat = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    flat[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        return flat

    @torch.no_grad()
    def load_tensors(self, flat: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave, bit for bit."""
        for name, master in self.masters.items():
            master.copy_(flat[f"master.{name}"])
            prefix = f"optimizer.{name}."
            state = {
                key.removeprefix(prefix): flat[key].to(master.device, copy=True)
                for key in flat
                if key.startswith(prefix)
            }
            for optimizer in self.optimizers:
                if any(master is held for group in optimizer.param_groups for held in group["params"]):
                    optimizer.state[master] = state
        self.write_back()


def make_master_weights(model: nn.Module, settings: TrainingSection) -> MasterWeights:
    """Masters and optimizers for a model's trainable parameters.

    Weight decay applies to matrices only: norms, biases and other vectors are left out, as is usual.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    masters = {
        name: value if value.dtype == torch.float32 else nn.Parameter(value.detach().float().clone())
        for name, value in parameters.items()
    }
    hidden, matrices, vectors = [], [], []
    for name, master in masters.items():
        if master.ndim < 2:
            vectors.append(master)
        elif settings.optimizer == "muon" and master.ndim == 2 and _HIDDEN_MATRIX.search(f".{name}"):
            hidden.append(master)
        else:
            matrices.append(master)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:  # an adapter may consist of hidden matrices alone
        optimizers.append(torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True))
    if hidden:
        # Jordan 2024; `match_rms_adamw` (Liu et al. 2025, arXiv:2502.16982) lets both share one learning rate.
        optimizers.append(
            torch.optim.Muon(
                hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return MasterWeights(parameters, masters, optimizers)
