"""Attention per document of a packed row in which learned keys and values stand before every document's own.

Shapes: N packed tokens, P learned keys, G documents of one group, T longest document of the group, H heads, D head
size.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name of the field

if TYPE_CHECKING:  # `attention.py` calls this module
    from kivnun.models.attention import DocumentGroup, DocumentGroups


def attend_after_prefix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    document_groups: "DocumentGroups",
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
) -> Tensor:
    """Causal attention of each document to the prefix and to itself.

    Args:
        query: Shape (1, H, N, D).
        key: Shape (1, H_kv, P + N, D): the prefix first, then the packed row.
        value: Shape (1, H_kv, P + N, D).
        document_groups: How the packed row is cut.
        scaling: Factor of the scores; None is D ** -0.5.
        dropout: Attention dropout probability.
        sliding_window: Tokens that a sliding-window layer looks back, those of the prefix included.

    Returns:
        Shape (1, N, H, D).
    """
    num_prefix = key.shape[2] - query.shape[2]
    prefix, row = zip(*((tensor[:, :, :num_prefix], tensor[:, :, num_prefix:]) for tensor in (key, value)), strict=True)
    pieces: list[Tensor] = []
    for group in document_groups.groups:
        q_GHTD = _cut(query, group)
        k_GHSD, v_GHSD = (
            torch.cat([before.expand(group.num_documents, -1, -1, -1), _cut(tensor, group)], dim=2)
            for before, tensor in zip(prefix, row, strict=True)
        )
        seen_TS = torch.ones(group.width, num_prefix + group.width, dtype=torch.bool, device=query.device)
        seen_TS = seen_TS.tril(num_prefix)
        if sliding_window is not None:
            seen_TS = seen_TS.triu(num_prefix + 1 - sliding_window)
        out_GHTD = F.scaled_dot_product_attention(
            q_GHTD, k_GHSD, v_GHSD, seen_TS, dropout, scale=scaling, enable_gqa=True
        )
        flat = out_GHTD.transpose(1, 2).reshape(group.num_documents * group.width, query.shape[1], value.shape[3])
        pieces.append(flat if group.scatter is None else flat.index_select(0, group.scatter))
    return torch.cat(pieces).unsqueeze(0)


def _cut(tensor_1HND: Tensor, group: "DocumentGroup") -> Tensor:
    """The group's part of a packed tensor as (G, H, T, D)."""
    part_NHD = tensor_1HND[0, :, group.start : group.stop].transpose(0, 1)
    if group.gather is not None:
        part_NHD = part_NHD.index_select(0, group.gather)
    return part_NHD.reshape(group.num_documents, group.width, *part_NHD.shape[1:]).transpose(1, 2)
