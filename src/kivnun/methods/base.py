"""The seam of tuning methods: which weights are trained, and in what form they leave."""

from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import nn

from kivnun.methods.base_model import BaseModelName
from kivnun.models.types import Model


class Method(Protocol):
    """How a model's weights become trainable.

    `prepare` is called once on a fresh base model; afterwards exactly the promised parameters have `requires_grad`.
    `export` writes what was trained; a folder with `adapter_config.json` is an adapter, any other a whole model.

    Attributes:
        mergeable: Whether what is trained can be added to the base weights, which an export to ONNX needs.
    """

    mergeable: ClassVar[bool]

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Make the promised weights of `model` trainable and freeze the rest."""
        ...

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write what was trained into an existing folder."""
        ...


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module where the named one is."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
