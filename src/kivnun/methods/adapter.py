"""Adapter folders in PEFT's format, read and checked: a feature that is not computed here is refused, never ignored."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kivnun.errors import UserError
from kivnun.methods.targets import is_within
from kivnun.models.linear_layers import LinearLayer, weight_matrix
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
        *("use_rslora", "use_dora", "modules_to_save"),
        # A and B are the same either way; PEFT too goes by the layer itself.
        "fan_in_fan_out",
        *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"),
        *("eva_config", "ensure_weight_tying", "init_lora_weights"),
    )
)
# Starts of A and B that leave the base weights as they are; the others (PiSSA, OLoRA, LoftQ ...) change them.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)
GET_AGAIN = "train the adapter again, or get it again from where it came"


def adapter_kind(folder: Path) -> str:
    """The `peft_type` of an adapter folder; `LORA` where it cannot be read, whose reader says what is wrong."""
    try:
        return str(json.loads((folder / CONFIG_NAME).read_text("utf-8"))["peft_type"])
    except _DAMAGED:
        return "LORA"


def read_files(folder: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The settings and the tensors of an adapter folder of any kind.

    Raises:
        UserError: `adapter-invalid` where it is damaged.
    """
    try:
        config = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
        tensors = load_file(folder / WEIGHTS_NAME)
        if not isinstance(config, dict):
            raise TypeError(f"{CONFIG_NAME} holds no fields")
    except _DAMAGED as error:
        raise _unreadable(folder, error) from error
    if not tensors:
        raise UserError("adapter-invalid", f"{folder}: {WEIGHTS_NAME} is empty", hint=GET_AGAIN)
    require_finite(tensors, where=f"{folder}: ", hint=GET_AGAIN)
    return config, tensors


def read_adapter(folder: Path) -> tuple[LoraMethod, object, dict[str, Tensor]]:
    """Settings (still without their layers), the base model's name, and the matrices of a LoRA folder.

    Raises:
        UserError: `adapter-invalid` where it is damaged or needs what Kivnun does not compute.
    """
    config, tensors = read_files(folder)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError("adapter-invalid", f"{folder}: a {kind} adapter, not LORA", hint="use a LoRA adapter")
    try:
        fields = {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "dropout": config.get("lora_dropout", 0.0),
            "use_rslora": config.get("use_rslora", False),
            "use_dora": config.get("use_dora", False),
            "modules_to_save": config.get("modules_to_save") or (),
        }
        settings = LoraMethod.model_validate(fields)
    except (KeyError, ValidationError) as error:
        raise _unreadable(folder, error) from error
    foreign = [f"{field}: {value}" for field, value in config.items() if _is_foreign(field, value)]
    if config.get("ensure_weight_tying") and settings.modules_to_save:
        foreign.append("ensure_weight_tying beside modules_to_save")
    if foreign:
        raise UserError(
            "adapter-invalid",
            f"{folder}/{CONFIG_NAME} asks for what Kivnun does not compute: {', '.join(foreign)}",
            hint="merge the adapter into its base model with PEFT and use that folder as base_model",
        )
    return settings, config.get("base_model_name_or_path"), tensors


def require_finite(
    tensors: Mapping[str, Tensor], *, where: str = "", hint: str = "lower training.learning_rate and run again"
) -> None:
    """Refuse tensors with a value that is no number.

    Raises:
        UserError: `adapter-invalid`.
    """
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        problem = f"{where}{len(broken)} adapter tensor(s) hold NaN or infinite values: {broken[0]}"
        raise UserError("adapter-invalid", problem, hint=hint)


@torch.no_grad()
def copy_exactly(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, folder: Path, base_model: object) -> None:
    """Copy an adapter's tensors into the model's, name by name; none may be missing, left over or of another shape.

    Args:
        own: The model's tensors, by the names of the file.
        tensors: Those of the file.
        folder: The adapter folder, for the error.
        base_model: What the adapter says it was trained on.

    Raises:
        UserError: `adapter-invalid`; the model's tensors are then as they were.
    """
    for key in sorted(own.keys() | tensors.keys()):
        given, needed = (tuple(each[key].shape) if key in each else None for each in (tensors, own))
        if given != needed:
            problem = f"{folder}: {key} has shape {given}, the base model needs {needed}"
            hint = f"load it on the model it was trained on: {base_model}"
            raise UserError("adapter-invalid", problem, hint=hint)
    for key, value in own.items():
        value.copy_(tensors[key])


def _unreadable(folder: Path, error: Exception) -> UserError:
    problem = f"{folder}: the adapter cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}"
    return UserError("adapter-invalid", problem, hint=GET_AGAIN)


def _is_foreign(field: str, value: object) -> bool:
    if field == "init_lora_weights":
        return value not in _PLAIN_STARTS
    if field == "bias":
        return value != "none"
    return field not in _KNOWN_FIELDS and bool(value)


def require_fit(
    model: Model, settings: LoraMethod, tensors: Mapping[str, Tensor], *, folder: Path, base_model: object
) -> tuple[list[str], list[str]]:
    """Check that every tensor has its layer and shape, and that no layer lacks one of its tensors.

    Returns:
        The names of the layers with an adapter, and of the modules that were trained whole.

    Raises:
        UserError: `adapter-invalid`.
    """
    hint = f"load it on the model it was trained on: {base_model}"
    known = dict(model.named_modules())
    saved = _saved_modules(model, settings.modules_to_save)
    shapes = {
        f"{PEFT_PREFIX}{name}.{key}": tuple(value.shape)
        for name in saved
        for key, value in known[name].state_dict().items()
    }
    keys = [key for key in tensors if not is_within(key.removeprefix(PEFT_PREFIX), saved)]
    names = sorted({key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for key in keys})
    for name in names:
        layer = known.get(name)
        if not isinstance(layer, LinearLayer):
            problem = f"{folder}: {name or keys[0]} is not a linear layer of the base model"
            raise UserError("adapter-invalid", problem, hint=hint)
        shapes |= _lora_shapes(name, layer, settings)
    for key in sorted(shapes.keys() | tensors.keys()):
        given = tuple(tensors[key].shape) if key in tensors else None
        if given != shapes.get(key):
            problem = f"{folder}: {key} has shape {given}, the base model needs {shapes.get(key)}"
            raise UserError("adapter-invalid", problem, hint=hint)
    return names, saved


def _lora_shapes(name: str, layer: LinearLayer, settings: LoraMethod) -> dict[str, tuple[int, ...]]:
    num_out, num_in = weight_matrix(layer).shape
    shapes: dict[str, tuple[int, ...]] = {
        f"{PEFT_PREFIX}{name}.lora_A.weight": (settings.rank, num_in),
        f"{PEFT_PREFIX}{name}.lora_B.weight": (num_out, settings.rank),
    }
    if settings.use_dora:
        shapes[f"{PEFT_PREFIX}{name}.lora_magnitude_vector"] = (num_out,)
    return shapes


def _saved_modules(model: Model, modules_to_save: tuple[str, ...]) -> list[str]:
    """The modules that PEFT means, which compares the last letters of names, not their last parts."""
    found: list[str] = []
    for name, module in model.named_modules():
        if name and name.endswith(modules_to_save) and not is_within(name, found) and module.state_dict():
            found.append(name)
    return found
