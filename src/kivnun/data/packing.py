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
        rows: Row numbers in the token table, in packed order.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    target_positions: Tensor
    target_ids: Tensor
    rows: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Real tokens in the batch: there is no padding to subtract."""
        return len(self.input_ids)


def pack(table: TokenTable, rows: Sequence[int]) -> PackedBatch:
    """Pack rows of a token table, shortest first, into one batch."""
    ordered = sorted(rows, key=lambda row: (table.length(row), row))
    lengths = tuple(table.length(row) for row in ordered)
    input_ids = np.concatenate([table.input_ids(row) for row in ordered]).astype(np.int64)
    trained = np.concatenate([table.trained(row) for row in ordered]).astype(bool)
    # The first token of a document is predicted by nothing: its predecessor in the row is another document.
    starts = list(accumulate(lengths, initial=0))
    trained[starts[:-1]] = False
    targets = np.flatnonzero(trained)
    positions = np.concatenate([np.arange(stop - start) for start, stop in pairwise(starts)])
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(positions),
        lengths=lengths,
        target_positions=torch.from_numpy(targets - 1),
        target_ids=torch.from_numpy(input_ids[targets]),
        rows=tuple(ordered),
    )


def plan_epoch(lengths: Sequence[int], *, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of every batch of one epoch: a seeded shuffle cut where the next row would pass the token budget.

    The same arguments give the same plan on every machine; a row longer than the budget is a batch of its own.
    """
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(lengths))
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


def iterate_in_order(table: TokenTable, *, batch_tokens: int) -> Iterator[PackedBatch]:
    """Every row once, shortest first: for validation and scoring."""
    order = sorted(range(len(table)), key=lambda row: (table.length(row), row))
    batch: list[int] = []
    total = 0
    for row in order:
        if batch and total + table.length(row) > batch_tokens:
            yield pack(table, batch)
            batch, total = [], 0
        batch.append(row)
        total += table.length(row)
    if batch:
        yield pack(table, batch)
