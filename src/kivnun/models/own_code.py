"""Models that bring Python code of their own, which is never run."""

import json
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kivnun.errors import UserError


def say_own_code(folder: Path) -> str:
    """What is to be said of the code that a model folder names, in words; nothing where it names none.

    Args:
        folder: The model.

    Raises:
        UserError: `model-invalid` for an architecture that transformers does not have itself.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        named, model_type = config.get("auto_map"), config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            "model-invalid",
            f"{folder / 'config.json'} cannot be read: {error}",
            hint="get the model again from where it came",
        ) from error
    if not named:
        return ""
    if model_type in CONFIG_MAPPING:
        return f"its own code is not run: transformers has the architecture {model_type} itself"
    raise UserError(
        "model-invalid",
        f"{folder} needs code of its own (auto_map in config.json), which is never run",
        hint="take a model whose architecture transformers has itself, such as Llama, Qwen, Phi-3, Gemma or Mistral",
    )
