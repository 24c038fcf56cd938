r"""Bottleneck adapters: y = h + U f(D h + d) + u behind the output projections of a decoder layer.

        residual ---------------------------------------(+)---
            \__ attention or feed-forward __ h ____(+)__/
                                              \_ D f U _/

Houlsby et al. 2019 (arXiv:1902.00751, section 2.1) put one behind the attention and one behind the feed-forward;
Pfeiffer et al. 2021 (arXiv:2005.00247, section 4) put one behind the feed-forward alone. Both add it before the layer's
own residual addition. U and u start at zero, so that an untrained adapter is the base model. What an adapter computes
is not linear in h, so it cannot be merged into the weights.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.errors import UserError
from kivnun.methods.adapter import CONFIG_NAME, GET_AGAIN, WEIGHTS_NAME, copy_exactly, read_files, require_finite
from kivnun.methods.base import replace_module
from kivnun.methods.base_model import BaseModelName, write_base_model
from kivnun.methods.blocks import find_block_outputs
from kivnun.methods.saved_modules import find_saved, train_whole
from kivnun.models.types import Model
from kivnun.recipe.methods import BottleneckMethod

KIND = "BOTTLENECK"
_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
_FIELDS = frozenset(("placement", "bottleneck_size", "activation"))


class BottleneckOutput(nn.Module):
    """A frozen projection with a trained bottleneck behind it.

    Args:
        base: The projection; it is kept, frozen, as `base`.
        size: Width of what the projection gives.
        settings: Width of the bottleneck and its activation.
        generator: Source of D's initial values, so that a seed covers the adapter too.
    """

    def __init__(self, base: nn.Module, size: int, settings: BottleneckMethod, *, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.activation = _ACTIVATIONS[settings.activation]
        device, width, bound = next(base.parameters()).device, settings.bottleneck_size, size**-0.5
        # float32 whatever the base: these few weights are what is trained.
        down = torch.empty(width, size).uniform_(-bound, bound, generator=generator)
        self.down_weight = nn.Parameter(down.to(device))
        self.down_bias = nn.Parameter(torch.zeros(width, device=device))
        self.up_weight = nn.Parameter(torch.zeros(size, width, device=device))
        self.up_bias = nn.Parameter(torch.zeros(size, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """The projection's output with the adapter's added, in the base's dtype."""
        h = self.base(x)
        low = self.activation(F.linear(h, self.down_weight.to(h.dtype), self.down_bias.to(h.dtype)))
        return h + F.linear(low, self.up_weight.to(h.dtype), self.up_bias.to(h.dtype))


@dataclass(frozen=True)
class Bottleneck:
    """The method `adapter`."""

    settings: BottleneckMethod
    mergeable: ClassVar[bool] = False

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model and put a bottleneck behind the projections that the placement names.

        Raises:
            UserError: `stage-unsupported` where the architecture's projections are not found; the model is then as it
                was.
        """
        pairs = find_block_outputs(model)
        model.requires_grad_(requires_grad=False)
        size = int(model.config.hidden_size)
        for attention, feed_forward in pairs:
            names = (attention, feed_forward) if self.settings.placement == "houlsby" else (feed_forward,)
            for name in names:
                base = model.get_submodule(name)
                adapted = BottleneckOutput(base, size, self.settings, generator=generator).train(base.training)
                replace_module(model, name, adapted)
        train_whole(model, find_saved(model))

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors`, `adapter_config.json` in a form of our own, and `base_model.json`.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        tensors = {key: value.detach().cpu().contiguous() for key, value in _trained(model)}
        require_finite(tensors)
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        settings = self.settings.model_dump(mode="json", include=set(_FIELDS))
        config = {"peft_type": KIND, "base_model_name_or_path": base_model.name, **settings}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        write_base_model(folder, base_model)


def load_bottleneck(model: Model, folder: Path) -> Model:
    """Put what `Bottleneck.export` wrote on a loaded base model; the model is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged or does not fit the model exactly.
    """
    config, tensors = read_files(folder)
    foreign = sorted(config.keys() - _FIELDS - {"peft_type", "base_model_name_or_path"})
    try:
        settings = BottleneckMethod.model_validate({field: config[field] for field in _FIELDS})
    except (KeyError, ValidationError) as error:
        problem = f"{folder}: the adapter cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}"
        raise UserError("adapter-invalid", problem, hint=GET_AGAIN) from error
    if foreign:
        problem = f"{folder}/{CONFIG_NAME} has fields that Kivnun does not know: {', '.join(foreign)}"
        raise UserError("adapter-invalid", problem, hint=GET_AGAIN)
    Bottleneck(settings).prepare(model, generator=torch.Generator())
    copy_exactly(dict(_trained(model)), tensors, folder=folder, base_model=config.get("base_model_name_or_path"))
    return model


def refuse_merge(model: Model) -> Model:
    """Refuse to merge a model with bottlenecks; any other is returned as it is.

    Raises:
        UserError: `stage-unsupported`.
    """
    if any(isinstance(module, BottleneckOutput) for module in model.modules()):
        raise UserError(
            "stage-unsupported",
            "bottleneck adapters are not linear, so they cannot be merged into the weights",
            hint="remove the optimization section, or train with method.kind: lora",
        )
    return model


def _trained(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    heads = find_saved(model)
    for name, module in model.named_modules():
        if isinstance(module, BottleneckOutput) or name in heads:
            yield from ((f"{name}.{key}", value) for key, value in module.named_parameters(recurse=False))
