"""What frozen lower layers make of each document, kept after the first time, where only upper layers train.

A document is always computed alone, not beside the others of its batch: rounding depends on what is computed together,
and a run that was stopped and goes on must find the same numbers whatever was kept before.

Shapes: N packed tokens, T tokens of a document, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Compute = Callable[[Tensor, Tensor], Tensor]
"""Hidden states (T, C) of one document from its ids and positions."""


@dataclass
class HiddenStateCache:
    """Hidden states of documents at the input of one layer, by the documents' tokens.

    Attributes:
        first_layer: The layer.
        limit_bytes: Most memory that is used; documents beyond it are computed each time.
        used_bytes: Memory used so far.
        documents: The states, on the CPU.
    """

    first_layer: int
    limit_bytes: int
    used_bytes: int = 0
    documents: dict[bytes, Tensor] = field(default_factory=dict[bytes, Tensor])

    @torch.no_grad()
    def states(self, input_ids_N: Tensor, position_ids_N: Tensor, ends: Tensor, compute: Compute) -> Tensor:
        """The states (N, C) of a packed row.

        Args:
            input_ids_N: Its ids.
            position_ids_N: Its positions.
            ends: Where each document starts, and the end of the row.
            compute: Gives the states of a document that is not kept.
        """
        lengths = ends.diff().tolist()
        documents = zip(input_ids_N.split(lengths), position_ids_N.split(lengths), strict=True)
        return torch.cat([self._document(ids_T, positions_T, compute) for ids_T, positions_T in documents])

    def _document(self, ids_T: Tensor, positions_T: Tensor, compute: Compute) -> Tensor:
        key = ids_T.cpu().numpy().tobytes()
        kept_TC = self.documents.get(key)
        if kept_TC is not None:
            return kept_TC.to(ids_T.device)
        states_TC = compute(ids_T, positions_T)
        size = states_TC.numel() * states_TC.element_size()
        if self.used_bytes + size <= self.limit_bytes:
            self.documents[key] = states_TC.cpu()
            self.used_bytes += size
        return states_TC
