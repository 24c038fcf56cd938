"""What the base model thinks of every document: computed once, before the first step, so that it is not held twice."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kivnun.data.packing import iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.training.objectives.log_probabilities import score_answers


@torch.no_grad()
def with_reference(model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
    """The table with the summed log-probability of every document under the model as it is.

    Before the first step that is the base model for every method that begins where the base model is. Dropout is off,
    and the model is left in the mode that it was in.

    Args:
        model: The model before its first step.
        table: The rows.
        batch_tokens: Tokens that may be computed at once.
    """
    was_training = model.training
    model.eval()
    reference = np.zeros(table.num_documents, dtype=np.float32)
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        scores = score_answers(model, batch)
        reference[sorted(batch.documents)] = scores.log_probability.flatten().cpu().numpy()
    model.train(was_training)
    return replace(table, reference=reference)
