"""What a model thinks of given answers: negative log likelihoods per document, for perplexity and bits per byte."""

from collections.abc import Sequence

import torch
from torch import nn

from kivnun.data.packing import iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.training.hidden_states import target_hidden_states
from kivnun.training.loss import target_losses


@torch.no_grad()
def document_losses(model: nn.Module, table: TokenTable, *, batch_tokens: int) -> tuple[list[float], list[int]]:
    """Summed negative log likelihood (nats) and number of trained tokens of every document, in the table's order.

    Args:
        model: A causal language model with packed attention switched on.
        table: Token table.
        batch_tokens: Tokens scored together.
    """
    model.eval()
    sums, counts = [0.0] * table.num_documents, [0] * table.num_documents
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
        losses_M = target_losses(hidden_MC, weight_VC, target_M).double()
        owner_M = _owners(batch.lengths)[batch.target_positions].to(losses_M.device)
        totals = torch.zeros(len(batch.documents), dtype=torch.float64, device=losses_M.device)
        totals.index_add_(0, owner_M, losses_M)
        numbers = torch.bincount(owner_M, minlength=len(batch.documents)).tolist()
        for document, total, number in zip(batch.documents, totals.tolist(), numbers, strict=True):
            sums[document], counts[document] = total, number
    return sums, counts


def _owners(lengths: Sequence[int]) -> torch.Tensor:
    """Which document each packed position belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
