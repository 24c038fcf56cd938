"""Encoders that turn a text into one vector, read from folders as sentence-transformers writes them.

A folder without `modules.json` is pooled by its mean. N texts, T tokens, C hidden size.
Reference: Reimers & Gurevych 2019, arXiv:1908.10084, section 3 (pooling).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from kivnun.errors import UserError
from kivnun.models.load import load_model, quiet_libraries
from kivnun.models.sentence_folder import POOLING_FOLDER
from kivnun.models.types import Model, Tokenizer

Pooling = Literal["mean", "cls", "last", "max"]
DEFAULT_MAX_TOKENS = 512
BATCH_TOKENS = 8192
_POOLING_FIELDS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
# BERT's pooler stands beside what is pooled here, and many encoders are published without it.
_UNUSED_WEIGHTS = "pooler."


@dataclass(frozen=True)
class EncoderSettings:
    """How a folder says that texts become vectors.

    Attributes:
        pooling: What is made of the hidden states.
        max_tokens: Most tokens that are read, special ones included.
        query_prefix: What stands before a query.
        document_prefix: What stands before a passage.
    """

    pooling: Pooling = "mean"
    max_tokens: int = DEFAULT_MAX_TOKENS
    query_prefix: str = ""
    document_prefix: str = ""


class TextEncoder:
    """An encoder with its tokenizer, in float32 on the CPU.

    Args:
        folder: The model's folder.

    Raises:
        UserError: `model-invalid` where it cannot be read, or makes vectors in a way that is unknown here.
    """

    def __init__(self, folder: Path) -> None:
        self.settings = read_settings(folder)
        self._tokenizer = load_plain_tokenizer(folder)
        self._model = load_encoder(folder)
        self.dim = int(self._model.config.hidden_size)

    @property
    def num_special_tokens(self) -> int:
        """Tokens that are put around every text."""
        return int(self._tokenizer.num_special_tokens_to_add())

    def count_tokens(self, text: str) -> int:
        """Tokens of a text alone, whole however long it is."""
        return len(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def count_unknown(self, text: str) -> int:
        """Tokens of a text that its vocabulary has no word for."""
        unknown = self._tokenizer.unk_token_id
        found = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return 0 if unknown is None else sum(token == unknown for token in found)

    @property
    def num_words(self) -> int:
        """Size of its vocabulary: what a token is less than."""
        return len(self._tokenizer)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text alone, whole however long it is."""
        found = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return cast("list[int]", found)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, C), in the order of the texts; what is longer than `max_tokens` is cut."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.settings.max_tokens, padding=False)
        return self._encode_rows(cast("list[list[int]]", encoded["input_ids"]))

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors (N, C) of texts as `tokenize` gives them; nothing is cut."""
        before, after = self._around
        return self._encode_rows([[*before, *row, *after] for row in rows])

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text: what a text without any of its own is turned into."""
        word = self.tokenize("a")
        whole = cast("list[int]", self._tokenizer("a", truncation=False)["input_ids"])
        start = next(place for place in range(len(whole)) if whole[place : place + len(word)] == word)
        return whole[:start], whole[start + len(word) :]

    def _encode_rows(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        vectors = np.zeros((len(ids), self.dim), np.float32)
        # Texts of like length are computed together, so that little of the work is padding.
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        for rows in _batches(order, ids):
            vectors[rows] = self._encode_batch([ids[row] for row in rows])
        return vectors

    @torch.inference_mode()
    def _encode_batch(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        width = max(map(len, ids))
        ids_NT = torch.tensor([[*row, *[self._pad_id] * (width - len(row))] for row in ids])
        mask_NT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        hidden_NTC = self._model(input_ids=ids_NT, attention_mask=mask_NT).last_hidden_state
        pooled_NC = pool(hidden_NTC, mask_NT, self.settings.pooling)
        return torch.nn.functional.normalize(pooled_NC, dim=-1).numpy()

    @property
    def _pad_id(self) -> int:
        return cast("int", self._tokenizer.pad_token_id or 0)


def pool(hidden_NTC: Tensor, mask_NT: Tensor, pooling: Pooling) -> Tensor:
    """One vector (N, C) for each text, of the hidden states where the mask is 1; padding stands on the right."""
    if pooling == "cls":
        return hidden_NTC[:, 0]
    if pooling == "last":
        last_N = mask_NT.sum(dim=1) - 1
        return hidden_NTC[torch.arange(len(hidden_NTC)), last_N]
    weights_NT1 = mask_NT.unsqueeze(-1)
    if pooling == "max":
        return hidden_NTC.masked_fill(weights_NT1 == 0, float("-inf")).amax(dim=1)
    return (hidden_NTC * weights_NT1).sum(dim=1) / weights_NT1.sum(dim=1)


def load_encoder(folder: Path) -> Model:
    """The base model of an encoder's folder.

    Raises:
        UserError: `model-invalid` where it cannot be loaded, or weights are missing.
    """
    return load_model(folder, dtype=torch.float32, kind="base model without a head", may_lack=_UNUSED_WEIGHTS)


def load_plain_tokenizer(folder: Path) -> Tokenizer:
    """A fast tokenizer; encoders need no end-of-text token.

    Published files often cut at 128 tokens and pad to as many: every call must say whether it wants that.

    Raises:
        UserError: `model-invalid` where there is none.
    """
    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "model-invalid",
            f"{folder}: the tokenizer cannot be loaded: {next(iter(str(error).splitlines()), type(error).__name__)}",
            hint="the folder must hold tokenizer.json or what it is made from",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            "model-invalid",
            f"{folder}: the tokenizer has no fast form",
            hint="save it again with transformers' fast tokenizer: the folder then holds tokenizer.json",
        )
    return tokenizer


def read_settings(folder: Path) -> EncoderSettings:
    """What a folder says of pooling, length and prefixes.

    Raises:
        UserError: `model-invalid` where a file cannot be read, or names a step that is unknown here.
    """
    modules = _read_list(folder / "modules.json")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in _KNOWN_MODULES]
    if unknown:
        raise UserError(
            "model-invalid",
            f"{folder}: its vectors pass through {', '.join(unknown)}, which is not computed here",
            hint="use an embedder of a transformer with pooling alone, or ask this one behind an endpoint (openai:...)",
        )
    place = next((str(m.get("path")) for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), None)
    pooling = _read_pooling(folder / (place or POOLING_FOLDER) / "config.json")
    prompts = _read_dict(folder / "config_sentence_transformers.json").get("prompts") or {}
    length = _read_dict(folder / "sentence_bert_config.json").get("max_seq_length")
    return EncoderSettings(
        pooling=pooling,
        max_tokens=int(length) if isinstance(length, int) else _context_of(folder),
        query_prefix=_prompt(prompts, "query"),
        document_prefix=_prompt(prompts, "document", "passage"),
    )


def _read_pooling(path: Path) -> Pooling:
    config = _read_dict(path)
    chosen = [field for field, value in config.items() if field.startswith("pooling_mode_") and value is True]
    if not chosen:
        named = config.get("pooling_mode")
        return cast("Pooling", named) if named in _POOLING_FIELDS.values() else "mean"
    if len(chosen) > 1 or chosen[0] not in _POOLING_FIELDS:
        raise UserError(
            "model-invalid",
            f"{path}: vectors are pooled by {' and '.join(chosen)}, which is not computed here",
            hint=f"one of {', '.join(_POOLING_FIELDS)} can be computed; or ask the model behind an endpoint",
        )
    return _POOLING_FIELDS[chosen[0]]


def _context_of(folder: Path) -> int:
    value = _read_dict(folder / "config.json").get("max_position_embeddings")
    return min(value, DEFAULT_MAX_TOKENS) if isinstance(value, int) else DEFAULT_MAX_TOKENS


def _prompt(prompts: object, *names: str) -> str:
    if not isinstance(prompts, dict):
        return ""
    found = (cast("dict[str, object]", prompts).get(name) for name in names)
    return next((text for text in found if isinstance(text, str)), "")


def _read_dict(path: Path) -> dict[str, object]:
    value = _read_json(path)
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _read_list(path: Path) -> list[dict[str, object]]:
    value = _read_json(path)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            "model-invalid", f"{path}: cannot be read: {error}", hint="get the model again from where it came"
        ) from error


def _batches(order: Sequence[int], ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in batches of at most `BATCH_TOKENS` tokens; the first row of a batch is its longest."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * len(ids[batches[-1][0]]) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
