"""Heads in place of the one that predicts tokens: a classifier's, or none at all, where hidden states are the result.

What a model folder of either kind needs beside its weights stands in its `head.json`. A classifier is transformers'
`*ForSequenceClassification`: score = W h, without a bias, h the last hidden state of the text's last token. A model for
embeddings is transformers' base model; what a text's embedding is made of its hidden states says the pooling.
Shapes: N packed tokens, C hidden size, D documents.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from kivnun.errors import UserError
from kivnun.models.attention import has_language_head
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.objectives import ClassificationObjective, ContrastiveObjective, Objective

HEAD_NAME = "head.json"
CLASSIFIER_MODULE = "score"
DEFAULT_DEVIATION = 0.02

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class Head:
    """What stands on a base model.

    Attributes:
        kind: `classification` or `embedding`.
        pad_token_id: What transformers pads texts with; no text ends with it.
        labels: Names of a classifier's classes, by number.
        seed: Seed of a classifier's first weights.
        pooling: What an embedding is made of.
        similarity: How embeddings are compared.
        max_seq_len: Longest text in tokens.
    """

    kind: Literal["classification", "embedding"]
    pad_token_id: int
    labels: tuple[str, ...] = ()
    seed: int = 0
    pooling: Pooling = "mean"
    similarity: Literal["cosine", "euclidean"] = "cosine"
    max_seq_len: int = 1024

    def save(self, folder: Path) -> None:
        """Write `head.json` beside a model's weights."""
        (folder / HEAD_NAME).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n", "utf-8")


def choose_head(
    objective: Objective, *, labels: Sequence[str] = (), seed: int = 0, pad_token_id: int = 0, max_seq_len: int = 1024
) -> Head | None:
    """The head that an objective trains; None where the model goes on predicting tokens.

    Args:
        objective: The recipe's `training.objective`.
        labels: Names of the classes of a classification.
        seed: Seed of a classifier's first weights.
        pad_token_id: What texts are padded with.
        max_seq_len: Longest text in tokens.
    """
    if isinstance(objective, ClassificationObjective):
        return Head("classification", pad_token_id, tuple(labels), seed, "last", max_seq_len=max_seq_len)
    if isinstance(objective, ContrastiveObjective):
        similarity = "cosine" if objective.loss == "in_batch" else "euclidean"
        return Head("embedding", pad_token_id, (), seed, objective.pooling, similarity, max_seq_len)
    return None


def read_head(folder: Path) -> Head | None:
    """The head of a model or adapter folder; None for one that predicts tokens.

    Raises:
        UserError: `model-invalid` where `head.json` cannot be read.
    """
    path = folder / HEAD_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        return Head(**{**values, "labels": tuple(values["labels"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{path}: cannot be read: {type(error).__name__}: {error}"
        raise UserError("model-invalid", problem, hint="run the recipe again") from error


def load_headed(folder: Path, head: Head | None, *, dtype: torch.dtype) -> Model:
    """A base model with a fresh head, or with its own one that predicts tokens where `head` is None.

    Raises:
        UserError: `model-invalid`; `stage-unsupported` where the architecture has no classifier.
    """
    if head is None:
        return load_model(folder, dtype=dtype)
    return put_head(load_model(folder, dtype=dtype, kind="base model without a head"), head)


def load_base(base_folder: Path, adapter_folder: Path, *, dtype: torch.dtype) -> Model:
    """The base model that an adapter folder goes on, with the head that the adapter was trained with.

    Raises:
        UserError: As for `read_head` and `load_headed`.
    """
    return load_headed(base_folder, read_head(adapter_folder), dtype=dtype)


def load_whole(folder: Path, *, dtype: torch.dtype) -> Model:
    """A tuned model that was written as a whole, with its head.

    Raises:
        UserError: `model-invalid`.
    """
    head = read_head(folder)
    if head is None:
        return load_model(folder, dtype=dtype)
    kind = "classifier" if head.kind == "classification" else "base model without a head"
    return load_model(folder, dtype=dtype, kind=kind)


def put_head(model: Model, head: Head) -> Model:
    """A model's own layers under another head; the weights are the model's, those of a classifier seeded.

    Args:
        model: A base model, or one that predicts tokens.
        head: The head.

    Raises:
        UserError: `stage-unsupported` where the architecture has no classifier.
    """
    body = cast("Model", model.base_model)
    return _put_classifier(body, head) if head.kind == "classification" else body


def _put_classifier(body: Model, head: Head) -> Model:
    config = body.config
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: number for number, label in enumerate(head.labels)}
    config.pad_token_id = head.pad_token_id
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise _no_classifier(type(body).__name__) from error
    empty = getattr(model, CLASSIFIER_MODULE, None)
    if not isinstance(empty, nn.Linear) or empty.bias is not None:
        raise _no_classifier(type(body).__name__)
    setattr(model, model.base_model_prefix, body)
    # One object for both, as in a model that transformers loads: how attention is computed is switched there.
    model.config = config
    setattr(model, CLASSIFIER_MODULE, _draw_classifier(body, empty, head.seed))
    return model.train(body.training)


def _draw_classifier(body: Model, empty: nn.Linear, seed: int) -> nn.Linear:
    """A linear layer with normal weights, as transformers draws them, in the dtype and on the device of the body."""
    like = next(body.parameters())
    deviation = getattr(body.config, "initializer_range", DEFAULT_DEVIATION)
    weight = torch.empty(empty.out_features, empty.in_features)
    weight.normal_(0.0, deviation, generator=torch.Generator().manual_seed(seed))
    empty.weight = nn.Parameter(weight.to(dtype=like.dtype, device=like.device))
    return empty


def _no_classifier(name: str) -> UserError:
    return UserError(
        "stage-unsupported",
        f"transformers has no classifier with a plain linear head for the base model's architecture, {name}",
        hint="choose a base model of the Llama, Mistral, Qwen, Gemma 1, Phi-3 or GPT-2 family",
    )


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that a head brought: no base model has trained them, so every method trains them whole."""
    is_classifier = not has_language_head(model) and hasattr(model, CLASSIFIER_MODULE)
    return (CLASSIFIER_MODULE,) if is_classifier else ()


def peft_task(model: nn.Module) -> str:
    """PEFT's name for what a model does, for `adapter_config.json`."""
    if head_modules(model):
        return "SEQ_CLS"
    return "CAUSAL_LM" if has_language_head(model) else "FEATURE_EXTRACTION"


def last_states(hidden_NC: Tensor, lengths: Sequence[int]) -> Tensor:
    """The state of the last token of each document of a packed row, shape (D, C)."""
    ends = torch.tensor([stop - 1 for stop in accumulate(lengths)], device=hidden_NC.device)
    return hidden_NC.index_select(0, ends)


def pool_documents(hidden_NC: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector for each document of a packed row, shape (D, C), in float32: the mean of its states, or the last one.

    Args:
        hidden_NC: Hidden states of the packed row.
        lengths: Tokens of each document, in packed order.
        pooling: `mean` or `last`.
    """
    device = hidden_NC.device
    if pooling == "last":
        return last_states(hidden_NC, lengths).float()
    counts_D = torch.tensor(lengths, device=device)
    owner_N = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts_D)
    sums_DC = torch.zeros(len(lengths), hidden_NC.shape[1], dtype=torch.float32, device=device)
    return sums_DC.index_add(0, owner_N, hidden_NC.float()) / counts_D.unsqueeze(1)
