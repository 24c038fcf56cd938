"""A model's tokenizer alone: no weights are fetched or read for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from kivnun.errors import UserError
from kivnun.models.load import load_tokenizer
from kivnun.models.mlflow_folder import plain_folder
from kivnun.models.resolve import NOT_FETCHED, bundled_folder
from kivnun.models.types import Tokenizer

# The index of weights is no part of a tokenizer, but it is small.
TOKENIZER_PATTERNS = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclass(frozen=True)
class NamedTokenizer:
    """A tokenizer and how much its model reads.

    Attributes:
        name: What the user called the model.
        tokenizer: The tokenizer, with its chat template.
        context: Tokens that the model reads at once; None where its configuration does not say.
    """

    name: str
    tokenizer: Tokenizer
    context: int | None


def open_tokenizer(name: str) -> NamedTokenizer:
    """The tokenizer of `bundled`, a folder, or a Hugging Face id, of which only small files are fetched.

    Raises:
        UserError: `model-missing` or `model-invalid`.
    """
    folder = _find_folder(name)
    return NamedTokenizer(name, load_tokenizer(folder), _read_context(folder / "config.json"))


def _find_folder(name: str) -> Path:
    bundled = bundled_folder(name)
    if bundled is not None:
        return bundled
    if Path(name).is_dir():
        return plain_folder(Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(
            "model-missing",
            f"{name}: no such folder",
            hint="name a folder with a tokenizer, a Hugging Face id like org/name, or `bundled`",
        )
    try:
        return Path(snapshot_download(name, allow_patterns=TOKENIZER_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            "model-missing",
            f"{name}: not a folder here, and the hub did not give it: {str(error).splitlines()[0]}",
            hint=NOT_FETCHED,
        ) from error


def _read_context(config: Path) -> int | None:
    """The context as models of all kinds write it; those that see as well have it one level deeper."""
    try:
        values = orjson.loads(config.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(values, dict):
        return None
    levels = [cast("dict[str, object]", values), cast("dict[str, object]", values).get("text_config")]
    found = [level.get(key) for level in levels if isinstance(level, dict) for key in CONTEXT_KEYS]
    return next((value for value in found if isinstance(value, int) and value > 0), None)
