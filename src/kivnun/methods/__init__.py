"""How a model's weights become trainable, and how what was trained is written and merged."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from kivnun.errors import UserError
from kivnun.methods.adapter import CONFIG_NAME, adapter_kind
from kivnun.methods.base import Method, trainable_names
from kivnun.methods.base_model import BaseModelName, require_base_model
from kivnun.methods.full import Full
from kivnun.methods.lora import Lora, load_adapter, merge_adapters
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe import methods as sections

METHODS: Mapping[str, Callable[..., Method]] = {"full": Full, "lora": Lora}
"""What each `kind` of the recipe's `method` section is."""

Loader = Callable[[Path, Path, torch.dtype], Model]
"""Reads a tuned model: `load(base_folder, adapter_folder, dtype)`."""


def _load_lora(base_folder: Path, model_folder: Path, dtype: torch.dtype) -> Model:
    return load_adapter(load_model(base_folder, dtype=dtype), model_folder)


LOADERS: Mapping[str, Loader] = {"LORA": _load_lora}
"""What reads each kind of adapter folder, by the `peft_type` that `adapter_kind` finds in it."""

MERGES: tuple[Callable[[Model], Model], ...] = (merge_adapters,)
"""Each merges its own kind of adapter into the base weights and leaves a model without one as it is."""


def make_method(settings: sections.Method) -> Method:
    """The method that a recipe's `method` section describes."""
    return METHODS[settings.kind](settings)


def load_tuned(base_folder: Path, model_folder: Path, *, dtype: torch.dtype) -> Model:
    """What a run trained, ready to answer: the base model with its adapter, or the whole tuned model.

    Raises:
        UserError: `model-invalid` or `adapter-invalid`, which an adapter of another base model is too.
    """
    if not (model_folder / CONFIG_NAME).is_file():
        return load_model(model_folder, dtype=dtype)
    kind = adapter_kind(model_folder)
    if kind not in LOADERS:
        raise UserError(
            "adapter-invalid",
            f"{model_folder}: an adapter of the kind {kind}, which Kivnun does not compute",
            hint="merge it into its base model with the tool it came from, and use that folder as base_model",
        )
    require_base_model(base_folder, model_folder)
    return LOADERS[kind](base_folder, model_folder, dtype).eval()


def merge(model: Model) -> Model:
    """Add what was trained beside the base weights to them; a whole model has nothing to merge.

    Raises:
        UserError: `stage-unsupported` for adapters that are no change of weights.
    """
    for merge_kind in MERGES:
        model = merge_kind(model)
    return model


def require_mergeable(settings: sections.Method) -> None:
    """Refuse, before anything is trained, a method whose result could not be exported.

    Raises:
        UserError: `stage-unsupported`.
    """
    if not make_method(settings).mergeable:
        mergeable = ", ".join(kind for kind, method in METHODS.items() if method.mergeable)  # type: ignore[attr-defined]
        raise UserError(
            "stage-unsupported",
            f"method.kind: what {settings.kind} trains cannot be merged into the weights, and optimization needs that",
            hint=f"remove the optimization section, or choose a method that merges: {mergeable}",
        )


__all__ = [
    "LOADERS",
    "MERGES",
    "METHODS",
    "BaseModelName",
    "Full",
    "Lora",
    "Method",
    "load_tuned",
    "make_method",
    "merge",
    "require_mergeable",
    "trainable_names",
]
