"""(IA)3: learned scales on keys, values and feed-forward activations (Liu et al. 2022, arXiv:2205.05638), by PEFT.

PEFT's own layers are put into the model in place, so that it stays the model that it is. Every scale starts at one:
an untrained one is the base model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kivnun.errors import UserError
from kivnun.methods.adapter import GET_AGAIN, PEFT_PREFIX, WEIGHTS_NAME, copy_exactly, read_files, require_finite
from kivnun.methods.base import replace_module
from kivnun.methods.base_model import BaseModelName, write_base_model
from kivnun.methods.saved_modules import find_saved, saved_tensors, train_whole
from kivnun.methods.targets import find_targets, matches_parts
from kivnun.models.heads import peft_task
from kivnun.models.late_imports import load_peft
from kivnun.models.types import Model
from kivnun.recipe.methods import Ia3Method

KIND = "IA3"
SCALES = "ia3_l"
ADAPTER = "default"
# Fields of PEFT's IA3Config that are read here or change nothing that is computed.
_KNOWN_FIELDS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "target_modules", "feedforward_modules", "exclude_modules", "fan_in_fan_out"),
        *("init_ia3_weights", "modules_to_save"),
    )
)


@dataclass(frozen=True)
class Ia3:
    """The method `ia3`: scales on the outputs, or in the feed-forward part the inputs, of linear layers."""

    settings: Ia3Method
    mergeable: ClassVar[bool] = True

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model and put scales of one on every target layer.

        Raises:
            UserError: `target-modules` where a name matches no linear layer, where an input is scaled of a layer that
                is no target, or where PEFT has no choice for the architecture and none is given.
        """
        del generator  # nothing is drawn
        targets, feedforward = self._choose(model)
        fields = {"target_modules": list(targets), "feedforward_modules": list(feedforward)}
        _put_scales(model, {**fields, "fan_in_fan_out": _is_transposed(model, targets)})
        train_whole(model, find_saved(model))

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does, and `base_model.json`.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        saved = find_saved(model)
        tensors = _tensors(model, saved)
        require_finite(tensors)
        whole = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
        save_file(whole, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        # PEFT keeps the settings of a model there; its own class is not known here, for it is imported late.
        config = cast("Any", model.peft_config)[ADAPTER]
        config.base_model_name_or_path, config.task_type, config.inference_mode = (
            base_model.name,
            peft_task(model),
            True,
        )
        config.modules_to_save = saved or None
        config.save_pretrained(str(folder))
        write_base_model(folder, base_model)

    def _choose(self, model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Targets and those of them whose inputs are scaled: the recipe's, or PEFT's for the architecture."""
        kind = cast("str", model.config.model_type)
        mappings = load_peft().utils.constants
        usual: Iterable[str] = mappings.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind, ())
        usual_feedforward: Iterable[str] = mappings.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, ())
        targets = self.settings.target_modules or tuple(usual)
        if not targets:
            raise UserError(
                "target-modules",
                f"method.target_modules: PEFT has no choice of layers for the architecture {kind}",
                hint="name the key, value and last feed-forward layers, and the latter in method.feedforward_modules",
            )
        if self.settings.target_modules:
            find_targets(model, targets)
        stray = [name for name in self.settings.feedforward_modules if name not in targets]
        if stray:
            raise UserError(
                "target-modules",
                f"method.feedforward_modules: {', '.join(stray)} is not among method.target_modules",
                hint=f"add it there, or choose from {', '.join(targets)}",
            )
        if self.settings.feedforward_modules:
            return targets, self.settings.feedforward_modules
        return targets, tuple(
            name for name in targets if any(matches_parts(name, usual) for usual in usual_feedforward)
        )


def load_ia3(model: Model, folder: Path) -> Model:
    """Put a PEFT folder of scales on a loaded base model, frozen but for them; the model is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged, does not fit the model exactly, or needs what Kivnun
            does not compute.
    """
    config, tensors = read_files(folder)
    foreign = [f"{field}: {value}" for field, value in config.items() if field not in _KNOWN_FIELDS and value]
    if foreign:
        raise UserError(
            "adapter-invalid",
            f"{folder} asks for what Kivnun does not compute: {', '.join(foreign)}",
            hint="merge the adapter into its base model with PEFT and use that folder as base_model",
        )
    fields = ("target_modules", "feedforward_modules", "exclude_modules", "fan_in_fan_out")
    try:
        _put_scales(model, {name: config[name] for name in fields if config.get(name) is not None})
    except (TypeError, ValueError) as error:
        problem = f"{folder}: does not fit the base model: {str(error).splitlines()[0]}"
        raise UserError("adapter-invalid", problem, hint=GET_AGAIN) from error
    saved = find_saved(model, tuple(cast("list[str]", config.get("modules_to_save") or ())))
    train_whole(model, saved)
    base_model = config.get("base_model_name_or_path")
    copy_exactly(_tensors(model, saved), tensors, folder=folder, base_model=base_model)
    return model


def merge_ia3(model: Model) -> Model:
    """Multiply every scale into its weight and take the scales off; changed and returned."""
    for name, layer in list(_scaled_layers(model)):
        layer.merge()  # type: ignore[operator]
        replace_module(model, name, cast("nn.Module", layer.base_layer))
    return model


def vector_names(model: nn.Module) -> list[str]:
    """Names of the trained scales: PEFT writes these vectors as matrices of one row or column."""
    return [f"{name}.{SCALES}.{ADAPTER}" for name, _ in _scaled_layers(model)]


def _put_scales(model: Model, fields: Mapping[str, object]) -> None:
    peft = load_peft()
    model.requires_grad_(requires_grad=False)
    # PEFT draws each scale before it sets it to one.
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(peft.IA3Config(**fields), model)
    for _, layer in _scaled_layers(model):
        scales = cast("nn.ParameterDict", layer.ia3_l)
        # float32 whatever the base: they are what is trained, and there are few.
        scales[ADAPTER] = nn.Parameter(scales[ADAPTER].detach().float())
        layer.train(cast("nn.Module", layer.base_layer).training)


def _is_transposed(model: Model, targets: Iterable[str]) -> bool:
    """Whether the targets keep their matrices as (I, O): transformers' `Conv1D`, the linear layer of GPT-2."""
    kinds = {
        type(module).__name__
        for name, module in model.named_modules()
        if any(matches_parts(name, target) for target in targets)
    }
    return "Conv1D" in kinds


def _scaled_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # Known by their scales, not by PEFT's class: a model without them is asked without importing PEFT.
    return (
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module._modules.get(SCALES), nn.ParameterDict)
    )


def _tensors(model: Model, saved: list[str]) -> dict[str, Tensor]:
    """The scales and the modules that are trained whole, under PEFT's names."""
    scales = {
        f"{PEFT_PREFIX}{name}.{SCALES}": cast("nn.ParameterDict", layer.ia3_l)[ADAPTER]
        for name, layer in _scaled_layers(model)
    }
    return scales | saved_tensors(model, saved, prefix=PEFT_PREFIX)
