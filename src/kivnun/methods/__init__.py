"""How a model's weights become trainable, and how what was trained is written and merged."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from kivnun.errors import UserError
from kivnun.methods.adapter import CONFIG_NAME, adapter_kind
from kivnun.methods.base import Method, trainable_names
from kivnun.methods.base_model import BaseModelName, require_base_model
from kivnun.methods.bottleneck import KIND as BOTTLENECK
from kivnun.methods.bottleneck import Bottleneck, load_bottleneck, refuse_merge
from kivnun.methods.full import Full
from kivnun.methods.ia3 import KIND as IA3
from kivnun.methods.ia3 import Ia3, load_ia3, merge_ia3, vector_names
from kivnun.methods.lora import Lora, learning_rate_scales, load_adapter, merge_adapters
from kivnun.methods.partial import Partial
from kivnun.methods.qlora import Qlora
from kivnun.methods.virtual_tokens import (
    PREFIX,
    PROMPT,
    Prefix,
    Prompt,
    load_prefix,
    load_prompt,
    refuse_virtual_tokens,
)
from kivnun.models.heads import load_base, load_whole
from kivnun.models.types import Model
from kivnun.recipe import methods as sections

METHODS: Mapping[str, Callable[..., Method]] = {
    "full": Full,
    "partial": Partial,
    "lora": Lora,
    "qlora": Qlora,
    "adapter": Bottleneck,
    "ia3": Ia3,
    "prefix": Prefix,
    "prompt": Prompt,
}
"""What each `kind` of the recipe's `method` section is."""

Loader = Callable[[Model, Path], Model]
"""Puts what an adapter folder holds on a loaded base model: `load(base, adapter_folder)`."""

LOADERS: Mapping[str, Loader] = {
    "LORA": load_adapter,
    BOTTLENECK: load_bottleneck,
    IA3: load_ia3,
    PREFIX: load_prefix,
    PROMPT: load_prompt,
}
"""What reads each kind of adapter folder, by the `peft_type` that `adapter_kind` finds in it."""

MERGES: tuple[Callable[[Model], Model], ...] = (merge_adapters, merge_ia3, refuse_merge, refuse_virtual_tokens)
"""Each merges its own kind of adapter into the base weights and leaves a model without one as it is, or refuses to."""


def make_method(settings: sections.Method) -> Method:
    """The method that a recipe's `method` section describes."""
    return METHODS[settings.kind](settings)


def load_tuned(base_folder: Path, model_folder: Path, *, dtype: torch.dtype) -> Model:
    """What a run trained, ready to answer: the base model with its adapter, or the whole tuned model.

    Raises:
        UserError: `model-invalid` or `adapter-invalid`, which an adapter of another base model is too.
    """
    if not (model_folder / CONFIG_NAME).is_file():
        return load_whole(model_folder, dtype=dtype)
    kind = adapter_kind(model_folder)
    if kind not in LOADERS:
        raise UserError(
            "adapter-invalid",
            f"{model_folder}: an adapter of the kind {kind}, which Kivnun does not compute",
            hint="merge it into its base model with the tool it came from, and use that folder as base_model",
        )
    require_base_model(base_folder, model_folder)
    return LOADERS[kind](load_base(base_folder, model_folder, dtype=dtype), model_folder).eval()


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
    "Bottleneck",
    "Full",
    "Lora",
    "Method",
    "Partial",
    "learning_rate_scales",
    "load_tuned",
    "make_method",
    "merge",
    "require_mergeable",
    "trainable_names",
    "vector_names",
]
