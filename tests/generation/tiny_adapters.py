"""LoRA adapters with large random values, in the format that training writes, made in milliseconds."""

from pathlib import Path

import torch

from kivnun.methods import BaseModelName, make_method
from kivnun.methods.lora import adapted_layers
from kivnun.models.load import load_model
from kivnun.recipe.methods import LoraMethod


def write_adapter(base: Path, folder: Path, *, seed: int, size: float = 0.3, **settings: object) -> Path:
    """An adapter on a base folder; `settings` are those of the recipe's method section."""
    method = make_method(LoraMethod.model_validate({"rank": 4, "alpha": 8, **settings}))
    model = load_model(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    method.prepare(model, generator=generator)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.normal_(generator=generator).mul_(size)
    folder.mkdir(parents=True)
    method.export(model, folder, base_model=BaseModelName("tiny", base))
    return folder
