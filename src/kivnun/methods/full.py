"""Full fine-tuning: every weight is trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod


@dataclass(frozen=True)
class Full:
    """The method `full`."""

    settings: FullMethod

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Make every weight trainable."""
        del generator
        model.requires_grad_(requires_grad=True)

    def export(self, model: Model, folder: Path, *, base_model: str) -> None:
        """Write the whole model."""
        del base_model
        model.save_pretrained(folder)
