r"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, eq. 3): h = W x + (alpha / rank) B A x.

              x ---------- W (frozen) ---------(+)--- h
               \__ A (R x I) __ B (O x R) __ s /

A starts as in PEFT (Kaiming uniform with a = sqrt(5)) and B at zero, so that an untrained adapter is the base model.
Shapes: I in, O out, R rank; leading axes are free.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.errors import UserError
from kivnun.methods.adapter import CONFIG_NAME, PEFT_PREFIX, WEIGHTS_NAME, read_adapter, require_fit
from kivnun.methods.base_model import BaseModelName, write_base_model
from kivnun.methods.low_rank import low_rank_linear
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: The layer to adapt; it is kept, frozen, as `base`.
        rank: R.
        alpha: Numerator of the scaling alpha / rank.
        dropout: Dropout probability on the adapter's input, in training only.
        generator: Source of A's initial values, so that a seed covers the adapter too.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scaling = alpha / rank
        self.dropout = dropout
        # float32 whatever the base: the low-rank factors are small, and they are what is trained.
        bound = 1 / math.sqrt(base.in_features)
        a_RI = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(a_RI.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output, in the base layer's dtype."""
        if self.training and self.dropout > 0:
            low = F.linear(F.dropout(x, self.dropout), self.lora_A.to(x.dtype))
            return self.base(x) + self.scaling * F.linear(low, self.lora_B.to(x.dtype))
        return low_rank_linear(x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scaling)

    def delta(self) -> Tensor:
        """The update's full matrix (O, I) in float32: alpha / rank * B A."""
        return self.scaling * (self.lora_B.float() @ self.lora_A.float())


@dataclass(frozen=True)
class Lora:
    """The method `lora`: adapters on linear layers, in PEFT's folder format."""

    settings: LoraMethod
    mergeable: ClassVar[bool] = True

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model and put an adapter on every target layer.

        Raises:
            UserError: `target-modules` where a name matches no linear layer.
        """
        model.requires_grad_(requires_grad=False)
        names = find_targets(model, self.settings.target_modules)
        put_adapters(model, names, self.settings, generator)

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        tensors: dict[str, Tensor] = {}
        for name, layer in _adapted(model):
            tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
            tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
        broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise UserError(
                "adapter-invalid",
                f"{len(broken)} adapter matrices hold NaN or infinite values: {broken[0]}",
                hint="lower training.learning_rate and run again",
            )
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        (folder / CONFIG_NAME).write_text(
            json.dumps(self._peft_config(model, base_model.name), indent=2) + "\n", "utf-8"
        )
        write_base_model(folder, base_model)

    def _peft_config(self, model: Model, base_model: str) -> dict[str, object]:
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "target_modules": sorted({name.rpartition(".")[2] for name, _ in _adapted(model)})
            if self.settings.target_modules == "all-linear"
            else list(self.settings.target_modules),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }


def find_targets(model: Model, target_modules: str | tuple[str, ...]) -> list[str]:
    """Names of the linear layers that get an adapter; as in PEFT, a target matches a whole name or its last parts.

    Raises:
        UserError: `target-modules`, listing the linear layers that there are.
    """
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    if target_modules == "all-linear":
        chosen, unmatched = linear, [] if linear else ["all-linear"]
    else:
        chosen = [name for name in linear if any(_matches(name, target) for target in target_modules)]
        unmatched = [target for target in target_modules if not any(_matches(name, target) for name in linear)]
    if unmatched:
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(
            "target-modules",
            f"method.target_modules: {', '.join(unmatched)} matches no linear layer of the model",
            hint=f"choose from {', '.join(kinds)}, or write all-linear",
        )
    return chosen


def put_adapters(model: Model, names: list[str], settings: LoraMethod, generator: torch.Generator) -> None:
    """Replace the named linear layers by adapted ones."""
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        base = cast("nn.Linear", model.get_submodule(name))
        adapted = LoraLinear(
            base, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout, generator=generator
        )
        # A new module is in training mode; in a model that answers, its dropout must be off.
        setattr(parent, name.rpartition(".")[2], adapted.train(base.training))


def load_adapter(model: Model, folder: Path) -> Model:
    """Put a PEFT-format LoRA folder on a loaded base model, frozen but for it; the model is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged, does not fit the model exactly, or needs what Kivnun
            does not compute; the model is then as it was.
    """
    settings, base_model, tensors = read_adapter(folder)
    names = sorted({key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for key in tensors})
    settings = settings.model_copy(update={"target_modules": tuple(names)})
    require_fit(model, names, settings.rank, tensors, folder=folder, base_model=base_model)
    model.requires_grad_(requires_grad=False)
    put_adapters(model, names, settings, torch.Generator())
    with torch.no_grad():
        for name, layer in _adapted(model):
            layer.lora_A.copy_(tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"])
            layer.lora_B.copy_(tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"])
    return model


@torch.no_grad()
def merge_adapters(model: Model) -> Model:
    """Add every adapter's update to its base weight in float32 and take the adapters off; changed and returned."""
    for name, layer in list(_adapted(model)):
        layer.base.weight.copy_((layer.base.weight.float() + layer.delta()).to(layer.base.weight.dtype))
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer.base)
    return model


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
