"""Token rows become padding-free batches in a seeded order that can be resumed at any batch.

A batch is one packed row: whole documents one after another, shortest first, no padding. Only positions whose next
token is trained are targets, so the language-model head never sees a prompt.

Shapes: N packed tokens, M targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from kivnun.data.tokens import TokenTable


@dataclass(frozen=True)
class PackedBatch:
    """One packed row of documents.

    Attributes:
        input_ids: Shape (N,).
        position_ids: Shape (N,), starting at 0 in every document.
        lengths: Length of each document, in packed order.
        target_positions: Shape (M,), packed positions whose next token is trained.
        target_ids: Shape (M,), those next tokens.
        rows: Rows of the token table that are in the batch, ascending.
        documents: Number in the token table of each packed document.
        target_weights: Shape (M,), float32: how much each target counts; None where all count 1.
        labels: Shape (rows,), float32: the table's labels of `rows`, in that order; None where it has none.
        reference: Shape (documents,), float32: the table's reference of `documents`; None where it has none.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    target_positions: Tensor
    target_ids: Tensor
    rows: tuple[int, ...]
    documents: tuple[int, ...]
    target_weights: Tensor | None = None
    labels: Tensor | None = None
    reference: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Real tokens in the batch: there is no padding to subtract."""
        return len(self.input_ids)


def pack(table: TokenTable, rows: Sequence[int]) -> PackedBatch:
    """Pack rows of a token table into one batch, the shortest document first."""
    numbers = [document for row in rows for document in table.documents(row)]
    ordered = sorted(numbers, key=lambda document: (table.length(document), document))
    lengths = tuple(table.length(document) for document in ordered)
    input_ids = np.concatenate([table.input_ids(document) for document in ordered]).astype(np.int64)
    trained = np.concatenate([table.trained(document) for document in ordered]).astype(bool)
    # The first token of a document is predicted by nothing: its predecessor in the row is another document.
    starts = list(accumulate(lengths, initial=0))
    trained[starts[:-1]] = False
    targets = np.flatnonzero(trained)
    positions = np.concatenate([np.arange(stop - start) for start, stop in pairwise(starts)])
    kept_rows = sorted(rows)
    weights = None
    if table.weights is not None:
        spans = [table.weights[table.offsets[document] : table.offsets[document + 1]] for document in ordered]
        weights = torch.from_numpy(np.concatenate(spans)[targets])
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(positions),
        lengths=lengths,
        target_positions=torch.from_numpy(targets - 1),
        target_ids=torch.from_numpy(input_ids[targets]),
        rows=tuple(kept_rows),
        documents=tuple(ordered),
        target_weights=weights,
        labels=None if table.labels is None else torch.from_numpy(table.labels[kept_rows]),
        reference=None if table.reference is None else torch.from_numpy(table.reference[ordered]),
    )


def plan_epoch(
    lengths: Sequence[int], *, batch_tokens: int, seed: int, epoch: int, batch_size: int | None = None
) -> list[list[int]]:
    """The rows of every batch of one epoch: a seeded shuffle cut where the next row would pass the token budget.

    The same arguments give the same plan on every machine; a row longer than the budget is a batch of its own. With a
    `batch_size` every batch has so many rows, whatever their lengths, and the last one what is left.
    """
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(lengths))
    if batch_size is not None:
        return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    batches: list[list[int]] = []
    room = 0
    for row in order.tolist():
        if not batches or lengths[row] > room:
            batches.append([])
            room = batch_tokens
        batches[-1].append(row)
        room -= lengths[row]
    return batches


def split_rows(rows: Sequence[int], lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Deal a batch's rows to micro-batches of about equal token counts, largest row first; empty parts are left out."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    totals = [0] * num_parts
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        smallest = totals.index(min(totals))
        parts[smallest].append(row)
        totals[smallest] += lengths[row]
    return [part for part in parts if part]


def split_to_fit(
    rows: Sequence[int], lengths: Sequence[int], *, num_parts: int, max_tokens: int | None
) -> list[list[int]]:
    """`split_rows` into at least `num_parts`, and as many more as it takes for none to pass `max_tokens`.

    A single row that is longer than the bound is a part of its own.
    """
    if max_tokens is not None:
        num_parts = max(num_parts, -(-sum(lengths[row] for row in rows) // max_tokens))
    while True:
        parts = split_rows(rows, lengths, num_parts)
        too_long = [part for part in parts if len(part) > 1 and sum(lengths[row] for row in part) > (max_tokens or 0)]
        if max_tokens is None or not too_long or num_parts >= len(rows):
            return parts
        num_parts += 1


def iterate_in_order(table: TokenTable, *, batch_tokens: int) -> Iterator[PackedBatch]:
    """Every row once, shortest first: for validation and scoring."""
    lengths = table.lengths()
    order = sorted(range(len(table)), key=lambda row: (lengths[row], row))
    batch: list[int] = []
    total = 0
    for row in order:
        if batch and total + lengths[row] > batch_tokens:
            yield pack(table, batch)
            batch, total = [], 0
        batch.append(row)
        total += lengths[row]
    if batch:
        yield pack(table, batch)
