"""Causal attention of all documents of a packed row as batched matrix products and a softmax, derived by hand.

In bf16 on a CPU this is several times as fast as torch's flash kernel for short documents (docs/explanation/speed.md).
Queries, keys and values are brought into the order in which the products read them by one gather each, so that every
group of documents and every block of queries is a view: group, document, key head, position, query head of that key
head. A block of queries meets only the keys up to its own end, so almost half of the square is never computed.

Shapes: N packed tokens, P positions of the groups' padded grids, H heads, D head size, R query heads per key head;
of a group G documents of T positions, B = G x key heads; of a block Q = R x its queries, K keys seen by it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

QUERY_BLOCK_TOKENS = 128


@dataclass(frozen=True)
class GridOrder:
    """Where each row (one position of one head) of a packed tensor stands in the products' order.

    Attributes:
        gather: Rows of the packed tensor in the products' order.
        scatter: Rows of the products' order in the packed tensor's.
        padding: Rows of the products' order that stand for nothing, or None where there is none.
    """

    gather: Tensor
    scatter: Tensor
    padding: Tensor | None


@dataclass(frozen=True)
class ProductLayout:
    """How the documents of a packed row lie in the products.

    Attributes:
        grids: (G, T) of each group.
        queries: The order of queries, and of the output.
        keys: The order of keys and values.
        repeats: R.
    """

    grids: tuple[tuple[int, int], ...]
    queries: GridOrder
    keys: GridOrder
    repeats: int

    def blocks(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(first position of the group in the grids, G, T, first query of the block, one past its last)."""
        base = 0
        for num_documents, width in self.grids:
            for start in range(0, width, QUERY_BLOCK_TOKENS):
                yield base, num_documents, width, start, min(start + QUERY_BLOCK_TOKENS, width)
            base += num_documents * width


def make_layout(
    positions: Sequence[tuple[Tensor, Tensor]], num_tokens: int, num_heads: int, num_key_heads: int
) -> ProductLayout:
    """The layout of a packed row.

    Args:
        positions: Of each group, the packed position that each place of its (G, T) grid holds, and whether it is a real
            one or padding.
        num_tokens: N.
        num_heads: H.
        num_key_heads: Heads of keys and values.
    """
    repeats = num_heads // num_key_heads
    queries = _order(positions, num_tokens, num_key_heads, repeats)
    keys = _order(positions, num_tokens, num_key_heads, 1)
    grids = tuple((grid.shape[0], grid.shape[1]) for grid, _ in positions)
    return ProductLayout(grids, queries, keys, repeats)


def _order(positions: Sequence[tuple[Tensor, Tensor]], num_tokens: int, num_key_heads: int, repeats: int) -> GridOrder:
    num_heads, device = num_key_heads * repeats, positions[0][0].device
    heads_HR = torch.arange(num_heads, device=device).view(num_key_heads, 1, repeats)
    gather = torch.cat([(grid[:, None, :, None] * num_heads + heads_HR).flatten() for grid, _ in positions])
    is_real = torch.cat(
        [real[:, None, :, None].expand(-1, num_key_heads, -1, repeats).flatten() for _, real in positions]
    )
    scatter = torch.empty(num_tokens * num_heads, dtype=torch.long, device=device)
    places = torch.arange(len(gather), device=device)
    scatter[gather[is_real]] = places[is_real]
    return GridOrder(gather, scatter, None if bool(is_real.all()) else places[~is_real])


def document_products(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, layout: ProductLayout, scaling: float) -> Tensor:
    """Causal attention inside each document, shape (N, H, D).

    Args:
        q_NHD: Queries.
        k_NHD: Keys.
        v_NHD: Values, of the same head size.
        layout: Where the documents are.
        scaling: Factor of the scores.
    """
    return cast("Tensor", _DocumentProducts.apply(q_NHD, k_NHD, v_NHD, layout, scaling))


@lru_cache(maxsize=8)
def _causal_triangle(repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity where a block's queries, each for `repeats` heads, must not see a key of the block (Q, Q / R).

    Kept, since every block of every layer asks for a part of the same one: the part of a shorter block is its corner.
    """
    shape = (QUERY_BLOCK_TOKENS, QUERY_BLOCK_TOKENS)
    triangle = torch.full(shape, float("-inf"), dtype=dtype, device=device).triu_(1)
    return triangle.repeat_interleave(repeats, 0)


def _masked_scores(q_BQD: Tensor, k_BKD: Tensor, repeats: int, scaling: float) -> Tensor:
    """Scores of a block's queries with all keys up to its end; only the last keys, the block's own, need a mask."""
    num_queries, num_keys = q_BQD.shape[1], k_BKD.shape[1]
    own = num_queries // repeats
    mask_QW = _causal_triangle(repeats, q_BQD.dtype, q_BQD.device)[:num_queries, :own]
    if own == num_keys:
        return torch.baddbmm(mask_QW, q_BQD, k_BKD.transpose(1, 2), alpha=scaling)
    # beta = 0: the first argument is not read.
    scores_BQK = torch.baddbmm(q_BQD.new_empty(()), q_BQD, k_BKD.transpose(1, 2), beta=0, alpha=scaling)
    scores_BQK[:, :, num_keys - own :] += mask_QW
    return scores_BQK


class _DocumentProducts(torch.autograd.Function):
    """With P = softmax(s q k^T) and o = P v:  dv = P^T do,  dS = P * (do v^T - sum of P * do v^T),  dq = s dS k.

    Then dk = s dS^T q, as everywhere (Dao et al. 2022, arXiv:2205.14135, appendix B.2).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, layout: ProductLayout, scaling: float
    ) -> Tensor:
        repeats, num_key_heads = layout.repeats, k_NHD.shape[1]
        q, k, v = (_gather(x, o) for x, o in ((q_NHD, layout.queries), (k_NHD, layout.keys), (v_NHD, layout.keys)))
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        for base, num_documents, width, start, stop in layout.blocks():
            part = (base, num_documents, width, num_key_heads)
            rows, seen = slice(start * repeats, stop * repeats), slice(stop)
            q_BQD, k_BKD = _view(q, *part, repeats)[:, rows], _view(k, *part, 1)[:, seen]
            p_BQK = torch.softmax(_masked_scores(q_BQD, k_BKD, repeats, scaling), -1)
            _put_product(_view(out, *part, repeats)[:, rows], p_BQK, _view(v, *part, 1)[:, seen])
            kept.append(p_BQK)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scaling, ctx.num_key_heads = layout, scaling, num_key_heads  # type: ignore[attr-defined]
        return out.index_select(0, layout.queries.scatter).view(q_NHD.shape)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        layout, scaling, num_key_heads = ctx.layout, ctx.scaling, ctx.num_key_heads  # type: ignore[attr-defined]
        repeats = layout.repeats
        do = _gather(grads[0], layout.queries)
        if layout.queries.padding is not None:
            do.index_fill_(0, layout.queries.padding, 0)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (base, num_documents, width, start, stop), p_BQK in zip(layout.blocks(), kept, strict=True):
            part = (base, num_documents, width, num_key_heads)
            rows, seen = slice(start * repeats, stop * repeats), slice(stop)
            do_BQD = _view(do, *part, repeats)[:, rows]
            dp_BQK = torch.bmm(do_BQD, _view(v, *part, 1)[:, seen].transpose(1, 2))
            ds_BQK = torch._softmax_backward_data(dp_BQK, p_BQK, -1, p_BQK.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            _view(dv, *part, 1)[:, seen].baddbmm_(p_BQK.transpose(1, 2), do_BQD)
            _put_product(_view(dq, *part, repeats)[:, rows], ds_BQK, _view(k, *part, 1)[:, seen], scaling)
            q_BQD = _view(q, *part, repeats)[:, rows]
            _view(dk, *part, 1)[:, seen].baddbmm_(ds_BQK.transpose(1, 2), q_BQD, alpha=scaling)
        size = q.shape[1]
        dq, dk, dv = (
            x.index_select(0, order.scatter).view(-1, heads, size)
            for x, order, heads in (
                (dq, layout.queries, num_key_heads * repeats),
                (dk, layout.keys, num_key_heads),
                (dv, layout.keys, num_key_heads),
            )
        )
        return dq, dk, dv, None, None


def _gather(x_NHD: Tensor, order: GridOrder) -> Tensor:
    return x_NHD.reshape(-1, x_NHD.shape[2]).index_select(0, order.gather)


def _view(rows: Tensor, base: int, num_documents: int, width: int, num_key_heads: int, repeats: int) -> Tensor:
    """One group's part as (B, T x R, D)."""
    heads = num_key_heads * repeats
    part = rows[base * heads : (base + num_documents * width) * heads]
    return part.view(num_documents * num_key_heads, width * repeats, rows.shape[1])


def _put_product(place: Tensor, left: Tensor, right: Tensor, scaling: float = 1.0) -> None:
    """Write `scaling * left @ right` to its place, straight if that is in one piece."""
    if place.is_contiguous():
        torch.baddbmm(place, left, right, beta=0, alpha=scaling, out=place)
    else:
        product = torch.bmm(left, right)
        place.copy_(product if scaling == 1 else product.mul_(scaling))
