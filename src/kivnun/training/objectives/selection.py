"""A part of a packed batch: one document of each row, as if it had been packed alone. N packed tokens, M targets."""

import torch

from kivnun.data.packing import PackedBatch


def select_documents(batch: PackedBatch, number: int) -> PackedBatch:
    """The batch with only one document of each row.

    Args:
        batch: Rows of several documents.
        number: Which one, from 0.
    """
    per_row = len(batch.documents) // len(batch.rows)
    keep = [document % per_row == number for document in batch.documents]
    keep_N = torch.repeat_interleave(torch.tensor(keep), torch.tensor(batch.lengths))
    place_N = torch.cumsum(keep_N, 0) - 1
    keep_M = keep_N[batch.target_positions]
    kept = [place for place, is_kept in enumerate(keep) if is_kept]
    return PackedBatch(
        input_ids=batch.input_ids[keep_N],
        position_ids=batch.position_ids[keep_N],
        lengths=tuple(batch.lengths[place] for place in kept),
        target_positions=place_N[batch.target_positions[keep_M]],
        target_ids=batch.target_ids[keep_M],
        rows=batch.rows,
        documents=tuple(batch.documents[place] for place in kept),
        target_weights=None if batch.target_weights is None else batch.target_weights[keep_M],
        labels=batch.labels,
        reference=None if batch.reference is None else batch.reference[kept],
    )
