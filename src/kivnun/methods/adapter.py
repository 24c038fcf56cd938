"""Adapter folders in PEFT's format, read and checked: a feature that is not computed here is refused, never ignored."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kivnun.errors import UserError
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
# Fields of PEFT's LoraConfig that do not change what an adapter computes, or that are read here; any other field that
# is switched on names a feature that Kivnun does not compute.
_KNOWN_FIELDS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout"),
        *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"),
        *("eva_config", "ensure_weight_tying", "init_lora_weights"),
    )
)
# Starts of A and B that leave the base weights as they are; the others (PiSSA, OLoRA, LoftQ ...) change them.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def adapter_kind(folder: Path) -> str:
    """The `peft_type` of an adapter folder; `LORA` where it cannot be read, whose reader says what is wrong."""
    try:
        return str(json.loads((folder / CONFIG_NAME).read_text("utf-8"))["peft_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return "LORA"


def read_adapter(folder: Path) -> tuple[LoraMethod, object, dict[str, Tensor]]:
    """Settings (still without their layers), the base model's name, and the matrices of an adapter folder.

    Raises:
        UserError: `adapter-invalid` where it is damaged or needs what Kivnun does not compute.
    """
    hint = "train the adapter again, or get it again from where it came"
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS_NAME)
        settings = LoraMethod(rank=config["r"], alpha=config["lora_alpha"], dropout=config.get("lora_dropout", 0.0))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        problem = f"{folder}: the adapter cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}"
        raise UserError("adapter-invalid", problem, hint=hint) from error
    if kind != "LORA":
        raise UserError("adapter-invalid", f"{folder}: a {kind} adapter, not LORA", hint="use a LoRA adapter")
    foreign = [f"{field}: {value}" for field, value in config.items() if _is_foreign(field, value)]
    if foreign:
        raise UserError(
            "adapter-invalid",
            f"{folder}/{CONFIG_NAME} asks for what Kivnun does not compute: {', '.join(foreign)}",
            hint="merge the adapter into its base model with PEFT and use that folder as base_model",
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken or not tensors:
        what = f"{broken[0]} holds NaN or infinite values" if broken else f"{WEIGHTS_NAME} is empty"
        raise UserError("adapter-invalid", f"{folder}: {what}", hint=hint)
    return settings, config.get("base_model_name_or_path"), tensors


def _is_foreign(field: str, value: object) -> bool:
    if field == "init_lora_weights":
        return value not in _PLAIN_STARTS
    if field == "bias":
        return value != "none"
    return field not in _KNOWN_FIELDS and bool(value)


def require_fit(
    model: Model, names: list[str], rank: int, tensors: dict[str, Tensor], *, folder: Path, base_model: object
) -> None:
    """Check that every matrix has its linear layer and shape, and that no layer has only one of its two.

    Raises:
        UserError: `adapter-invalid`.
    """
    hint = f"load it on the model it was trained on: {base_model}"
    known = dict(model.named_modules())
    shapes: dict[str, tuple[int, int]] = {}
    for name in names:
        layer = known.get(name)
        if not isinstance(layer, nn.Linear):
            problem = f"{folder}: {name or next(iter(tensors))} is not a linear layer of the base model"
            raise UserError("adapter-invalid", problem, hint=hint)
        shapes[f"{PEFT_PREFIX}{name}.lora_A.weight"] = (rank, layer.in_features)
        shapes[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (layer.out_features, rank)
    for key in sorted(shapes.keys() | tensors.keys()):
        given = tuple(tensors[key].shape) if key in tensors else None
        if given != shapes.get(key):
            problem = f"{folder}: {key} has shape {given}, the base model needs {shapes.get(key)}"
            raise UserError("adapter-invalid", problem, hint=hint)
