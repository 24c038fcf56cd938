"""A model's shape without its weights: for counting what a method would train and keep, at any size."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from kivnun.models.load import model_config
from kivnun.models.types import Model


def empty_model(folder: Path) -> Model:
    """A model on torch's meta device: every layer with its shape, no weight with a value.

    Raises:
        UserError: `model-invalid` where config.json cannot be read.
    """
    config = model_config(folder)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
