"""What an objective asks of a model: hidden states of a packed batch.

Shapes: N packed tokens, C hidden size, V vocabulary, M targets.
"""

from torch import Tensor, nn

from kivnun.data.packing import PackedBatch
from kivnun.models.attention import group_documents, packed_hidden_states


def hidden_states(model: nn.Module, batch: PackedBatch, wanted_M: Tensor | None = None) -> Tensor:
    """The last hidden states of a packed batch, on the model's device: (N, C), or (M, C) of the wanted positions.

    Args:
        model: A model with packed attention switched on.
        batch: The batch.
        wanted_M: Positions in rising order, each once; None for all.
    """
    device = next(model.parameters()).device
    groups = group_documents(batch.lengths, device)
    wanted_M = None if wanted_M is None else wanted_M.to(device)
    return packed_hidden_states(model, batch.input_ids.to(device), batch.position_ids.to(device), groups, wanted_M)


def target_hidden_states(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (M, C) before each trained token, the head's weight (V, C), and the trained tokens (M,)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    hidden_MC = hidden_states(model, batch, batch.target_positions)
    return hidden_MC, head.weight, batch.target_ids.to(hidden_MC.device)
