"""What a classifier makes of texts: a logit for each class, read at the last token.

Shapes: D documents, L classes.
"""

import torch
from torch import Tensor, nn

from kivnun.data.packing import PackedBatch, iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.models.heads import last_states
from kivnun.training.hidden_states import hidden_states


def class_logits(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Logits (D, L) of a batch's documents, in packed order, in float32."""
    states_DC = last_states(hidden_states(model, batch), batch.lengths)
    return model.score(states_DC).float()  # type: ignore[operator]


@torch.no_grad()
def class_log_probabilities(model: nn.Module, table: TokenTable, *, batch_tokens: int) -> Tensor:
    """Log-probabilities (D, L) of the classes for every document of a table, in its order, in float32 on the CPU.

    Args:
        model: A classifier with packed attention switched on; it is left in evaluation mode.
        table: The texts.
        batch_tokens: Tokens that are computed at once.
    """
    model.eval()
    num_classes = int(model.config.num_labels)  # type: ignore[arg-type, union-attr]
    log_p_DL = torch.zeros(table.num_documents, num_classes)
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        log_p_DL[list(batch.documents)] = torch.log_softmax(class_logits(model, batch), dim=1).cpu()
    return log_p_DL
