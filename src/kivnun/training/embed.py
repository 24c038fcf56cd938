"""Embeddings of texts, and which of many texts lies nearest to each.

Shapes: D documents, C hidden size, R anchors, N candidates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.data.packing import PackedBatch, iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.models.heads import Pooling, pool_documents
from kivnun.training.hidden_states import hidden_states

CHUNK_ANCHORS = 512

Similarity = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Ranking:
    """Where the own text of each anchor stands among all candidates.

    Attributes:
        ranks: 1 where it is the nearest; a candidate that is just as near comes before it.
        nearest: Number of the nearest candidate; of those just as near, not the own one.
    """

    ranks: Sequence[int]
    nearest: Sequence[int]

    @property
    def recall_at_1(self) -> float:
        """The share of anchors whose own text is the nearest."""
        return sum(rank == 1 for rank in self.ranks) / max(len(self.ranks), 1)

    @property
    def mean_reciprocal_rank(self) -> float:
        """The mean of 1 / rank."""
        return sum(1 / rank for rank in self.ranks) / max(len(self.ranks), 1)


@dataclass(frozen=True)
class Candidates:
    """Whom each anchor is compared with.

    Attributes:
        anchors: Number of the document of each anchor, shape (R,).
        texts: Numbers of the documents that are candidates, shape (N,).
        own: Which candidate belongs to each anchor, shape (R,).
        same: For each anchor, the texts that say what it says or what belongs to it.
        places: Which candidates each text is.
    """

    anchors: Tensor
    texts: Tensor
    own: Tensor
    same: Sequence[frozenset[int]]
    places: Mapping[int, Tensor]

    def excluded(self, rows: Tensor) -> Tensor:
        """Candidates that are neither right nor wrong for some anchors, since they say the same; bool, (rows, N)."""
        excluded_RN = torch.zeros(len(rows), len(self.texts), dtype=torch.bool)
        for number, row in enumerate(rows.tolist()):
            for key in self.same[row]:
                if key in self.places:
                    excluded_RN[number, self.places[key]] = True
        excluded_RN[torch.arange(len(rows)), self.own[rows]] = False
        return excluded_RN

    def chunks(self) -> Iterator[Tensor]:
        """The anchors' numbers in parts, since all anchors against all texts may be too large for the memory."""
        return iter(torch.arange(len(self.anchors)).split(CHUNK_ANCHORS))


def embed_batch(model: nn.Module, batch: PackedBatch, pooling: Pooling) -> Tensor:
    """Embeddings (D, C) of a batch's documents, in packed order, in float32."""
    return pool_documents(hidden_states(model, batch), batch.lengths, pooling)


@torch.no_grad()
def embed_table(model: nn.Module, table: TokenTable, *, pooling: Pooling, batch_tokens: int) -> Tensor:
    """Embeddings (D, C) of every document of a table, in its order, in float32 on the model's device.

    Args:
        model: A model with packed attention switched on; it is left in evaluation mode.
        table: The texts.
        pooling: What an embedding is made of.
        batch_tokens: Tokens that are computed at once.
    """
    model.eval()
    like = next(model.parameters())
    size = model.config.hidden_size  # type: ignore[union-attr]
    embeddings_DC = torch.zeros(table.num_documents, int(size), device=like.device)  # type: ignore[arg-type]
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        embeddings_DC[list(batch.documents)] = embed_batch(model, batch, pooling)
    return embeddings_DC


def find_candidates(texts: Iterable[bytes], documents_per_row: int, *, skip: Sequence[bool] = ()) -> Candidates:
    """Every row's anchor against the other texts of all rows.

    Left out for an anchor are texts equal to it, and those that belong to it by any row with an equal anchor.

    Args:
        texts: The texts of all rows, those of one row after another: anchor, positive, perhaps a negative.
        documents_per_row: How many make a row.
        skip: Rows whose anchors are not asked, such as unlike pairs; their texts are candidates.
    """
    numbers: dict[bytes, int] = {}
    keys = [numbers.setdefault(text, len(numbers)) for text in texts]
    anchors = [
        place for place in range(0, len(keys), documents_per_row) if not (skip and skip[place // documents_per_row])
    ]
    candidates = [place for place in range(len(keys)) if place % documents_per_row]
    belongs: dict[int, set[int]] = {}
    for anchor in anchors:
        belongs.setdefault(keys[anchor], {keys[anchor]}).add(keys[anchor + 1])
    places: dict[int, list[int]] = {}
    for number, place in enumerate(candidates):
        places.setdefault(keys[place], []).append(number)
    text_N = torch.tensor(candidates, dtype=torch.long)
    anchor_R = torch.tensor(anchors, dtype=torch.long)
    return Candidates(
        anchor_R,
        text_N,
        torch.searchsorted(text_N, anchor_R + 1),
        [frozenset(belongs[keys[anchor]]) for anchor in anchors],
        {key: torch.tensor(found) for key, found in places.items()},
    )


def similarities(anchors_RC: Tensor, texts_NC: Tensor, similarity: Similarity) -> Tensor:
    """How near each anchor is to each text, shape (R, N): the cosine, or minus the Euclidean distance."""
    if similarity == "cosine":
        return F.normalize(anchors_RC, dim=1) @ F.normalize(texts_NC, dim=1).T
    return -torch.cdist(anchors_RC, texts_NC, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def rank_candidates(embeddings_DC: Tensor, candidates: Candidates, similarity: Similarity) -> Ranking:
    """The rank of each anchor's own text among its candidates, and the nearest one."""
    device = embeddings_DC.device
    texts_NC = embeddings_DC[candidates.texts.to(device)]
    ranks: list[int] = []
    nearest: list[int] = []
    for chunk in candidates.chunks():
        own_R1 = candidates.own[chunk].to(device).unsqueeze(1)
        anchors_RC = embeddings_DC[candidates.anchors[chunk].to(device)]
        near_RN = similarities(anchors_RC, texts_NC, similarity)
        near_RN = near_RN.masked_fill(candidates.excluded(chunk).to(device), float("-inf"))
        own_near_R1 = near_RN.gather(1, own_R1)
        others_RN = near_RN.scatter(1, own_R1, float("-inf"))
        ranks_R = 1 + (others_RN >= own_near_R1).sum(1)
        nearest_R = torch.where(ranks_R == 1, own_R1[:, 0], others_RN.argmax(1))
        ranks += ranks_R.tolist()
        nearest += nearest_R.tolist()
    return Ranking(ranks, nearest)
