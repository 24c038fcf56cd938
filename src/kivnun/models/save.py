"""Model folders out: safetensors, tokenizer and chat template, and nothing else."""

from pathlib import Path

from kivnun.models.load import quiet_libraries
from kivnun.models.types import Model, Tokenizer


def save_model(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a plain Hugging Face folder that any tool of the field loads."""
    quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
