"""Cross-encoders: a query and a passage are read together, and one number says how well they fit.

Reference: Nogueira & Cho 2019, arXiv:1901.04085, section 3.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.models.load import load_model
from kivnun.models.text_encoder import DEFAULT_MAX_TOKENS, load_plain_tokenizer

BATCH_PAIRS = 16


class CrossEncoder:
    """A classifier of pairs with one logit, or two of which the second says that they fit.

    Args:
        folder: The model's folder.

    Raises:
        UserError: `model-invalid` where it cannot be read, or has other classes.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_plain_tokenizer(folder)
        self._model = load_model(folder, dtype=torch.float32, kind="classifier")
        self._num_labels = cast("int", self._model.config.num_labels)
        if self._num_labels > 2:
            raise UserError(
                "model-invalid",
                f"{folder}: a reranker has one or two classes, this model has {self._num_labels}",
                hint="name a cross-encoder that was trained to rank passages",
            )
        context = getattr(self._model.config, "max_position_embeddings", DEFAULT_MAX_TOKENS)
        self.max_tokens = min(int(context), DEFAULT_MAX_TOKENS)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @torch.inference_mode()
    def score(self, query: str, passages: Sequence[str]) -> NDArray[np.float64]:
        """The probability that each passage fits the query; what is too long is cut from the passage."""
        scores = np.zeros(len(passages))
        for start in range(0, len(passages), BATCH_PAIRS):
            batch = list(passages[start : start + BATCH_PAIRS])
            encoded = self._tokenizer(
                [query] * len(batch),
                batch,
                padding=True,
                truncation="only_second",
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            logits = self._model(**encoded).logits.double()
            margin = logits[:, 0] if self._num_labels == 1 else logits[:, 1] - logits[:, 0]
            scores[start : start + len(batch)] = torch.sigmoid(margin).numpy()
        return scores
