"""Model folders out: safetensors, tokenizer and chat template, and nothing else."""

from pathlib import Path

from kivnun.models.types import Model, Tokenizer


def save_model(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a plain Hugging Face folder that any tool of the field loads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
