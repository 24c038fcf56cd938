"""What an objective asks of a model: hidden states of a packed batch.

Shapes: N packed tokens, C hidden size, V vocabulary, M targets.
"""

from torch import Tensor, nn

from kivnun.data.packing import PackedBatch
from kivnun.models.attention import group_documents, packed_hidden_states


def hidden_states(model: nn.Module, batch: PackedBatch) -> Tensor:
    """The last hidden states (N, C) of a packed batch, on the model's device."""
    device = next(model.parameters()).device
    groups = group_documents(batch.lengths, device)
    return packed_hidden_states(model, batch.input_ids.to(device), batch.position_ids.to(device), groups)


def target_hidden_states(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (M, C) before each trained token, the head's weight (V, C), and the trained tokens (M,)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    hidden_NC = hidden_states(model, batch)
    device = hidden_NC.device
    return hidden_NC.index_select(0, batch.target_positions.to(device)), head.weight, batch.target_ids.to(device)
