"""The methods around low-rank adapters: LoRA, rsLoRA, DoRA and LoRA+, in PEFT's folder format."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from kivnun.errors import UserError
from kivnun.methods.adapted_linear import AdaptedLinear, DoraLinear, LoraLinear
from kivnun.methods.adapter import CONFIG_NAME, PEFT_PREFIX, WEIGHTS_NAME, read_adapter, require_finite, require_fit
from kivnun.methods.base import replace_module
from kivnun.methods.base_model import BaseModelName, write_base_model
from kivnun.methods.saved_modules import find_saved, saved_tensors, train_whole
from kivnun.methods.targets import find_targets
from kivnun.models.heads import peft_task
from kivnun.models.linear_layers import linear_layer, weight_matrix
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod

# Names of the trained tensors of a layer, and what PEFT calls them in its file.
_FILE_NAMES = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_magnitude_vector": "lora_magnitude_vector",
}


@dataclass(frozen=True)
class Lora:
    """The method `lora`: adapters on linear layers, and modules that are trained whole beside them."""

    settings: LoraMethod
    mergeable: ClassVar[bool] = True

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model, put an adapter on every target layer and unfreeze the modules to save.

        Raises:
            UserError: `target-modules` where a name matches nothing, `recipe-invalid` where the rank is above a
                matrix's own; the model is then as it was.
        """
        saved = find_saved(model, self.settings.modules_to_save)
        names = find_targets(model, self.settings.target_modules, saved=saved)
        require_rank(model, names, self.settings.rank)
        model.requires_grad_(requires_grad=False)
        self.put_adapters(model, names, generator)
        train_whole(model, saved)

    def put_adapters(self, model: Model, names: Sequence[str], generator: torch.Generator) -> None:
        """Replace the named linear layers by adapted ones."""
        put_adapters(model, names, self.settings, generator)

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does, and `base_model.json`.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        saved = find_saved(model, self.settings.modules_to_save)
        tensors = {
            f"{PEFT_PREFIX}{name}.{_FILE_NAMES[key]}": value
            for name, layer in adapted_layers(model)
            for key, value in layer.named_parameters(recurse=False)
        }
        tensors |= saved_tensors(model, saved, prefix=PEFT_PREFIX)
        require_finite(tensors)
        # A copy for each name: safetensors refuses two that share memory, as saved modules may between themselves.
        whole = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
        config = self._peft_config(model, saved, base_model.name)
        save_file(whole, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        write_base_model(folder, base_model)

    def _peft_config(self, model: Model, saved: Sequence[str], base_model: str) -> dict[str, object]:
        targets = self.settings.target_modules
        return {
            "peft_type": "LORA",
            "task_type": peft_task(model),
            "base_model_name_or_path": base_model,
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha,
            "lora_dropout": self.settings.dropout,
            "use_rslora": self.settings.use_rslora,
            "use_dora": self.settings.use_dora,
            "target_modules": sorted({name.rpartition(".")[2] for name, _ in adapted_layers(model)})
            if targets == "all-linear"
            else list(targets),
            # Whole names: PEFT takes a name's last letters, so that `norm` would mean every norm there.
            "modules_to_save": list(saved) or None,
            "bias": "none",
            "fan_in_fan_out": any(layer.is_transposed for _, layer in adapted_layers(model)),
            "inference_mode": True,
        }


def require_rank(model: Model, names: Sequence[str], rank: int) -> None:
    """Refuse a rank that no update of a layer can have.

    Raises:
        UserError: `recipe-invalid`, naming the narrowest layer and its sizes.
    """
    shapes = {name: tuple(weight_matrix(linear_layer(model, name)).shape) for name in names}
    name = min(shapes, key=lambda name: min(shapes[name]))
    smaller = min(shapes[name])
    if rank > smaller:
        raise UserError(
            "recipe-invalid",
            f"method.rank: {rank} is above the smaller side of {name} ({' x '.join(map(str, shapes[name]))})",
            hint=f"set it to {smaller} or less, or leave that layer out of method.target_modules",
        )


def put_adapters(model: Model, names: Sequence[str], settings: LoraMethod, generator: torch.Generator) -> None:
    """Replace the named linear layers by adapted ones."""
    kind = DoraLinear if settings.use_dora else LoraLinear
    for name in names:
        base = linear_layer(model, name)
        # A new module is in training mode; in a model that answers, its dropout must be off.
        replace_module(model, name, kind(base, settings, generator=generator).train(base.training))


def load_adapter(model: Model, folder: Path) -> Model:
    """Put a PEFT-format LoRA folder on a loaded base model, frozen but for it; the model is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged, does not fit the model exactly, or needs what Kivnun
            does not compute; the model is then as it was.
    """
    settings, base_model, tensors = read_adapter(folder)
    names, saved = require_fit(model, settings, tensors, folder=folder, base_model=base_model)
    model.requires_grad_(requires_grad=False)
    put_adapters(model, names, settings, torch.Generator())
    train_whole(model, saved)
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            for key, value in layer.named_parameters(recurse=False):
                value.copy_(tensors[f"{PEFT_PREFIX}{name}.{_FILE_NAMES[key]}"])
        for key, value in saved_tensors(model, saved, prefix=PEFT_PREFIX).items():
            value.copy_(tensors[key])
    return model


@torch.no_grad()
def merge_adapters(model: Model) -> Model:
    """Add every adapter's update to its base weight in float32 and take the adapters off; changed and returned."""
    for name, layer in list(adapted_layers(model)):
        layer.matrix.copy_(layer.merged_weight().to(layer.base.weight.dtype))
        replace_module(model, name, layer.base)
    return model


def learning_rate_scales(model: nn.Module) -> dict[str, float]:
    """How many times faster than the rest a parameter learns, for those that do.

    LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B's rate is `learning_rate_ratio` times that of A.
    """
    return {
        f"{name}.lora_B": layer.learning_rate_ratio
        for name, layer in adapted_layers(model)
        if layer.learning_rate_ratio != 1
    }


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """Every layer with an adapter, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLinear))
