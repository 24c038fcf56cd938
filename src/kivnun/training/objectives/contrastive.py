"""Contrastive learning of embeddings: what belongs together comes to lie together.

`in_batch` is InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, eq. 4) over cosines, as in SimCSE (Gao et al. 2021,
arXiv:2104.08821, eq. 1 and, with hard negatives, eq. 5):

    l_i = -log  exp(cos(a_i, p_i) / T)  /  sum_j exp(cos(a_i, t_j) / T)

where t_j are the positives and hard negatives of all rows of the optimizer step, less those that say the same as a_i or
p_i. The step may be cut into micro-batches: by gradient caching (Gao et al. 2021, arXiv:2101.06983, section 3) every
text is embedded twice, first without gradients for dl/de, then with gradients for the surrogate sum of e dl/de, whose
gradient is that of the whole step.

`margin` is Hadsell et al. 2006 (eq. 4) with d the Euclidean distance, and y = 1 for an unlike pair:

    l = (1 - y) d^2 + y max(margin - d, 0)^2

Shapes: D documents, R rows, C hidden size, N candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.data.packing import PackedBatch
from kivnun.data.tokens import TokenTable
from kivnun.recipe.objectives import ContrastiveObjective
from kivnun.training.embed import (
    Candidates,
    Similarity,
    embed_batch,
    embed_table,
    find_candidates,
    rank_candidates,
    similarities,
)
from kivnun.training.objectives.base import BatchLoss


@dataclass(frozen=True)
class StepGradient:
    """What a batch needs to know of the other batches of its step.

    Attributes:
        gradient: Of the step's sum with respect to the batch's embeddings, shape (D, C), in packed order.
        value: The batch's part of the step's sum.
        metrics: Its parts of further sums.
    """

    gradient: Tensor
    value: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class _Step:
    """All texts of an optimizer step, those of other processes too.

    Attributes:
        embeddings: Shape (D, C).
        candidates: Whom each anchor is compared with.
        own_documents: The texts of this process.
        own_rows: The rows of this process.
    """

    embeddings: Tensor
    candidates: Candidates
    own_documents: slice
    own_rows: slice


@dataclass(frozen=True)
class Contrastive:
    """The objective `contrastive`.

    Attributes:
        settings: The recipe's section.
        asks_other_processes: That `prepare_step` gathers the texts of all processes.
    """

    asks_other_processes: ClassVar[bool] = True

    settings: ContrastiveObjective

    @property
    def similarity(self) -> Similarity:
        """How the embeddings are to be compared."""
        return "cosine" if self.settings.loss == "in_batch" else "euclidean"

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table as it is."""
        del model, batch_tokens
        return table

    def count(self, batch: PackedBatch) -> float:
        """The number of rows."""
        return len(batch.rows)

    def prepare_step(self, model: nn.Module, batches: Sequence[PackedBatch]) -> Sequence[object]:
        """For `in_batch`, the gradient of the step's sum with respect to every embedding of the step."""
        if self.settings.loss == "margin":
            return [None] * len(batches)
        with torch.no_grad():
            parts = [embed_batch(model, batch, self.settings.pooling)[_in_order(batch)] for batch in batches]
        texts = [text for batch in batches for text in _texts(batch)]
        rows = [len(batch.rows) for batch in batches]
        step = _gather(parts, texts, sum(rows), is_shared=model.training)
        if not parts:
            return []
        with torch.enable_grad():
            embeddings_DC = step.embeddings.to(parts[0].device).requires_grad_()
            losses_R = in_batch_losses(embeddings_DC, step.candidates, self.settings.temperature)
            (gradient_DC,) = torch.autograd.grad(losses_R.sum(), embeddings_DC)
        # The candidate that belongs to an anchor is none of its negatives.
        negatives_R = torch.cat([(~step.candidates.excluded(rows)).sum(1) for rows in step.candidates.chunks()]) - 1
        gradients = gradient_DC[step.own_documents].split([len(batch.documents) for batch in batches])
        values, negatives = (
            each.detach().cpu().double()[step.own_rows].split(rows) for each in (losses_R, negatives_R)
        )
        return [
            StepGradient(gradient[_places(batch)], float(value.sum()), {"negatives": float(number.sum())})
            for batch, gradient, value, number in zip(batches, gradients, values, negatives, strict=True)
        ]

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """The sum over a batch's rows."""
        embeddings_DC = embed_batch(model, batch, self.settings.pooling)
        if isinstance(prepared, StepGradient):
            surrogate = (embeddings_DC * prepared.gradient).sum()
            return BatchLoss(surrogate, value=prepared.value, metrics=prepared.metrics)
        unlike_R = _unlike(batch.labels, len(batch.rows)).to(embeddings_DC.device)
        return BatchLoss(margin_losses(embeddings_DC[_in_order(batch)], unlike_R, self.settings.margin).sum())

    def measure(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> dict[str, float]:
        """The mean loss over a table, where each row meets the texts of all rows, recall at 1, and 1 / rank.

        The latter two are left out where no pair is alike, for then nothing is asked.
        """
        embeddings_DC = embed_table(model, table, pooling=self.settings.pooling, batch_tokens=batch_tokens)
        unlike_R = _unlike(None if table.labels is None else torch.from_numpy(table.labels), len(table))
        candidates = table_candidates(table)
        if self.settings.loss == "margin":
            losses_R = margin_losses(embeddings_DC, unlike_R.to(embeddings_DC.device), self.settings.margin)
        else:
            losses_R = in_batch_losses(embeddings_DC, candidates, self.settings.temperature)
        loss = float(losses_R.double().mean())
        if not len(candidates.anchors):
            return {"loss": loss}
        ranking = rank_candidates(embeddings_DC, candidates, self.similarity)
        return {"loss": loss, "recall_at_1": ranking.recall_at_1, "mrr": ranking.mean_reciprocal_rank}


def table_candidates(table: TokenTable) -> Candidates:
    """Every anchor of a table, unlike pairs left out, against the texts of all its rows."""
    texts = (table.input_ids(number).tobytes() for number in range(table.num_documents))
    skip = [] if table.labels is None else (table.labels > 0.5).tolist()
    return find_candidates(texts, table.documents_per_row, skip=skip)


def in_batch_losses(embeddings_DC: Tensor, candidates: Candidates, temperature: float) -> Tensor:
    """InfoNCE of each anchor among its candidates, shape (R,), in float32.

    Args:
        embeddings_DC: Embeddings of all texts.
        candidates: Whom each anchor is compared with.
        temperature: T.
    """
    device = embeddings_DC.device
    texts_NC = embeddings_DC[candidates.texts.to(device)]
    losses: list[Tensor] = []
    for chunk in candidates.chunks():
        anchors_RC = embeddings_DC[candidates.anchors[chunk].to(device)]
        logits_RN = similarities(anchors_RC, texts_NC, "cosine") / temperature
        logits_RN = logits_RN.masked_fill(candidates.excluded(chunk).to(device), float("-inf"))
        losses.append(F.cross_entropy(logits_RN, candidates.own[chunk].to(device), reduction="none"))
    return torch.cat(losses)


def margin_losses(embeddings_DC: Tensor, unlike_R: Tensor, margin: float) -> Tensor:
    """The margin loss of each pair, shape (R,).

    Args:
        embeddings_DC: Embeddings of the pairs, one pair after another.
        unlike_R: 1 where a pair is unlike, 0 where it is alike.
        margin: Distance to which unlike pairs are pushed apart.
    """
    distance_R = F.pairwise_distance(embeddings_DC[0::2], embeddings_DC[1::2])
    return (1 - unlike_R) * distance_R.square() + unlike_R * (margin - distance_R).clamp(min=0).square()


def _gather(parts: Sequence[Tensor], texts: Sequence[bytes], num_rows: int, *, is_shared: bool) -> _Step:
    """What every process embedded for this step: negatives are all that the step has, however many share its work."""
    own = (torch.cat(list(parts)).cpu() if parts else None, list(texts), num_rows)
    gathered, rank = [own], 0
    # Outside of a training step, one process may ask alone.
    if is_shared and distributed.is_available() and distributed.is_initialized():
        gathered = [own] * distributed.get_world_size()
        rank = distributed.get_rank()
        distributed.all_gather_object(gathered, own)
    all_texts = [text for _, each, _ in gathered for text in each]
    documents_per_row = len(all_texts) // max(sum(number for _, _, number in gathered), 1)
    documents = sum(len(each) for _, each, _ in gathered[:rank])
    rows = sum(number for _, _, number in gathered[:rank])
    return _Step(
        torch.cat([each for each, _, _ in gathered if each is not None]),
        find_candidates(all_texts, documents_per_row),
        slice(documents, documents + len(texts)),
        slice(rows, rows + num_rows),
    )


def _unlike(labels: Tensor | None, num_rows: int) -> Tensor:
    return torch.zeros(num_rows) if labels is None else labels


def _in_order(batch: PackedBatch) -> Tensor:
    """Places in the packed row of the documents in the table's order, in which those of one row stand together."""
    return torch.from_numpy(np.argsort(batch.documents))


def _places(batch: PackedBatch) -> Tensor:
    """Places in the table's order of the packed documents: the inverse of `_in_order`."""
    return torch.from_numpy(np.argsort(np.argsort(batch.documents)))


def _texts(batch: PackedBatch) -> list[bytes]:
    """The tokens of each document, in the table's order."""
    packed = [ids.numpy().tobytes() for ids in batch.input_ids.split(list(batch.lengths))]
    return [packed[place] for place in _in_order(batch).tolist()]
