"""Full fine-tuning: every weight is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from kivnun.methods.base_model import BaseModelName
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod


@dataclass(frozen=True)
class Full:
    """The method `full`."""

    settings: FullMethod
    mergeable: ClassVar[bool] = True

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Make every weight trainable."""
        del generator
        model.requires_grad_(requires_grad=True)

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write the whole model."""
        del base_model
        model.save_pretrained(folder)
