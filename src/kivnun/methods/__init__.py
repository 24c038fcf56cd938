"""How a model's weights become trainable, and how what was trained is written and merged."""

from pathlib import Path

import torch

from kivnun.methods.base import Method, trainable_names
from kivnun.methods.full import Full
from kivnun.methods.lora import CONFIG_NAME, Lora, load_adapter
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe import methods as sections

METHODS = {"full": Full, "lora": Lora}


def make_method(settings: sections.Method) -> Method:
    """The method that a recipe's `method` section describes."""
    return METHODS[settings.kind](settings)  # type: ignore[arg-type]


def load_tuned(base_folder: Path, model_folder: Path, *, dtype: torch.dtype) -> Model:
    """What a run trained, ready to answer: the base model with its adapter, or the whole tuned model.

    Raises:
        UserError: `model-invalid` or `adapter-invalid`.
    """
    if (model_folder / CONFIG_NAME).is_file():
        return load_adapter(load_model(base_folder, dtype=dtype), model_folder).eval()
    return load_model(model_folder, dtype=dtype)


__all__ = ["METHODS", "Full", "Lora", "Method", "load_tuned", "make_method", "trainable_names"]
