"""Sequence classification: the class of a row is read at the last token of its text.

Shapes: D documents, L classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.data.packing import PackedBatch
from kivnun.data.tokens import TokenTable
from kivnun.training.classify import class_log_probabilities, class_logits
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective


class Classification(RowwiseObjective):
    """The objective `classification`: cross-entropy of each row's class."""

    def count(self, batch: PackedBatch) -> float:
        """The number of rows."""
        return len(batch.rows)

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Summed negative log likelihood of the rows' classes, in nats, and how many are the likeliest."""
        del prepared
        logits_DL = class_logits(model, batch)
        class_D = _classes(batch).to(logits_DL.device)
        total = F.cross_entropy(logits_DL, class_D, reduction="sum")
        right = float((logits_DL.detach().argmax(1) == class_D).sum())
        return BatchLoss(total, metrics={"accuracy": right})

    def measure(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> dict[str, float]:
        """Loss, accuracy and macro-F1 over a table."""
        log_p_DL = class_log_probabilities(model, table, batch_tokens=batch_tokens)
        true = table_classes(table)
        answered = log_p_DL.argmax(1).numpy()
        return {
            "loss": float(-log_p_DL[torch.arange(len(true)), torch.from_numpy(true)].double().mean()),
            "accuracy": float((answered == true).mean()),
            "macro_f1": macro_f1(answered, true, log_p_DL.shape[1]),
        }


def table_classes(table: TokenTable) -> NDArray[np.int64]:
    """The class of each row of a table."""
    if table.labels is None:
        raise ValueError("the rows have no class")
    return table.labels.astype(np.int64)


def macro_f1(answered: NDArray[np.int64], true: NDArray[np.int64], num_classes: int) -> float:
    """The mean of the classes' F1; a class that is neither true nor answered has none and is left out."""
    involved = np.bincount(answered, minlength=num_classes) + np.bincount(true, minlength=num_classes)
    right = np.bincount(true[answered == true], minlength=num_classes)
    return float((2 * right / np.maximum(involved, 1)).sum() / max((involved > 0).sum(), 1))


def _classes(batch: PackedBatch) -> Tensor:
    """The class of each document, in packed order; a row is one document, and both have one number."""
    if batch.labels is None:
        raise ValueError("the rows have no class")
    places = np.searchsorted(batch.rows, batch.documents)
    return batch.labels[torch.from_numpy(places)].long()
