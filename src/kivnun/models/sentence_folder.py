"""The files that make a folder with a base model one that sentence-transformers loads as it is."""

import json
from pathlib import Path

from kivnun.models.heads import Head
from kivnun.models.types import Tokenizer

POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
_MODULES = "sentence_transformers.models"
_POOLING_MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}


def write_head(folder: Path, head: Head, tokenizer: Tokenizer, *, hidden_size: int) -> None:
    """Write what stands beside the weights of a model with a head, so that it can be loaded and texts be padded for it.

    Args:
        folder: A model or adapter folder.
        head: The head.
        tokenizer: The base model's tokenizer; it gets a padding token where it has none.
        hidden_size: Width of the hidden states.
    """
    head.save(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    if head.kind == "embedding":
        write_sentence_files(folder, head, hidden_size=hidden_size)


def write_sentence_files(folder: Path, head: Head, *, hidden_size: int) -> None:
    """Say how a text's embedding is made of the model's hidden states: pooled, and of length 1 for a cosine.

    Args:
        folder: A model or adapter folder with its tokenizer.
        head: The head.
        hidden_size: Width of the embeddings.
    """
    modules = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
    if head.similarity == "cosine":
        modules.append((NORMALIZE_FOLDER, "Normalize"))
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    pooling = {field: mode == head.pooling for mode, field in _POOLING_MODES.items()}
    _write(folder / "modules.json", listed)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": head.max_seq_len, "do_lower_case": False})
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": head.similarity},
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    _write(
        folder / POOLING_FOLDER / "config.json",
        {"word_embedding_dimension": hidden_size, **pooling, "include_prompt": True},
    )


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
