"""Attention per document over a padding-free batch, registered with transformers as `kivnun_documents`.

A packed batch is one row of N tokens that holds whole documents one after another. Each document attends causally to
itself alone. Documents of similar length are gathered into one padded group only for the attention product, so that a
batch of many short documents costs a few products, not one per document; every other layer sees no padding at all.

Shapes: N packed tokens, G documents of one group, T longest document of the group, H heads, D head size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import AttentionInterface

from kivnun.errors import UserError
from kivnun.models.document_products import ProductLayout, document_products, make_layout
from kivnun.models.prefixed_attention import attend_after_prefix

try:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.10
except ImportError:
    varlen_attn = None

NAME = "kivnun_documents"
# Within a group the longest document is at most this many times the shortest: bounds the padded work.
MAX_LENGTH_RATIO = 1.25
SMALL_DOCUMENT_TOKENS = 16
HALF_PRECISION = (torch.bfloat16, torch.float16)
# Largest head of torch's flash kernels on CUDA.
MAX_FLASH_HEAD = 256
PROBE_LENGTHS = (5, 11)
# Relative error of the probe's logits that rounding explains; half precision differs from kernel to kernel.
PROBE_TOLERANCE, PROBE_TOLERANCE_HALF = 1e-4, 0.1
# Settings by which architectures change the head's product, and the values with which they do not.
LOGIT_SETTINGS: Mapping[str, tuple[float | None, ...]] = {
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "lm_head_multiplier": (None, 1),
}


@dataclass(frozen=True)
class DocumentGroup:
    """Documents of similar length that stand next to each other in the packed row.

    Attributes:
        start: First packed position of the group.
        stop: One past the last packed position.
        num_documents: G.
        width: T, the length of the longest document.
        gather: Packed positions (relative to `start`) of the G x T grid, or None where no document is shorter than T.
        scatter: Positions in the G x T grid of the group's real tokens, or None likewise.
    """

    start: int
    stop: int
    num_documents: int
    width: int
    gather: Tensor | None
    scatter: Tensor | None

    def positions(self) -> Tensor:
        """The packed position at each place of the grid (G, T); where there is padding, that of another token."""
        grid = torch.arange(self.stop - self.start) if self.gather is None else self.gather
        return (grid + self.start).view(self.num_documents, self.width)

    def is_real(self) -> Tensor:
        """Whether a place of the grid (G, T) holds a token, or padding."""
        real = torch.ones(self.num_documents * self.width, dtype=torch.bool)
        if self.scatter is not None:
            real = torch.zeros_like(real, device=self.scatter.device).index_fill_(0, self.scatter, 1)
        return real.view(self.num_documents, self.width)


@dataclass(frozen=True)
class AttentionSettings:
    """What a layer hands to its attention beside queries, keys and values; see `attend_documents`."""

    scaling: float
    dropout: float
    sliding_window: int | None


@dataclass(frozen=True)
class DocumentGroups:
    """How a packed row of documents is cut for attention; built once a batch and used by every layer.

    Attributes:
        groups: The groups in packed order.
        longest: Length of the longest document.
        ends: Packed position at which each document starts, and the end of the row, int32.
        recorded: Where to note what each attention module hands to `attend_documents`, or None.
        layouts: How the documents lie in the products, by the numbers of heads; filled when first asked for.
    """

    groups: tuple[DocumentGroup, ...]
    longest: int
    ends: Tensor
    recorded: dict[nn.Module, AttentionSettings] | None = None
    layouts: dict[tuple[int, int], ProductLayout] = field(default_factory=dict[tuple[int, int], ProductLayout])


class PackedDecoder(Protocol):
    """Another way to run a model on packed rows."""

    def hidden_states(
        self, input_ids_N: Tensor, position_ids_N: Tensor, groups: DocumentGroups, wanted_M: Tensor | None
    ) -> Tensor:
        """The last hidden states of all positions (N, C), or of the wanted ones (M, C)."""
        ...


DECODERS: WeakKeyDictionary[nn.Module, PackedDecoder] = WeakKeyDictionary()
"""The models that `packed_hidden_states` runs in another way than transformers does."""


def group_documents(lengths: Sequence[int], device: torch.device | str = "cpu") -> DocumentGroups:
    """Cut a packed row into groups of consecutive documents with similar lengths.

    Args:
        lengths: Length of each document in packed order; sorted lengths give the fewest groups.
        device: Where the index tensors are used.
    """
    runs: list[list[int]] = []
    low = high = 0
    for length in lengths:
        low, high = (min(low, length), max(high, length)) if runs else (length, length)
        if not runs or high > max(low * MAX_LENGTH_RATIO, SMALL_DOCUMENT_TOKENS):
            runs.append([])
            low = high = length
        runs[-1].append(length)
    groups: list[DocumentGroup] = []
    start = 0
    for run in runs:
        groups.append(_group(start, run, device))
        start += sum(run)
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    return DocumentGroups(tuple(groups), max(lengths, default=0), ends)


def _group(start: int, lengths: list[int], device: torch.device | str) -> DocumentGroup:
    width, stop = max(lengths), start + sum(lengths)
    if min(lengths) == width:
        return DocumentGroup(start, stop, len(lengths), width, None, None)
    gather = torch.zeros(len(lengths), width, dtype=torch.long)
    scatter: list[Tensor] = []
    for row, (first, last) in enumerate(pairwise(accumulate(lengths, initial=0))):
        gather[row, : last - first] = torch.arange(first, last)
        scatter.append(torch.arange(row * width, row * width + last - first))
    return DocumentGroup(start, stop, len(lengths), width, gather.flatten().to(device), torch.cat(scatter).to(device))


@torch.compiler.disable
def attend_documents(  # noqa: PLR0913, PLR0917 - transformers' signature
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_groups: DocumentGroups | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each document of a packed row; transformers' attention-function signature.

    Args:
        module: The attention layer.
        query: Shape (1, H, N, D).
        key: Shape (1, H_kv, N, D).
        value: Shape (1, H_kv, N, D).
        attention_mask: Must be None: the documents are the mask.
        scaling: Factor of the scores; None is D ** -0.5.
        dropout: Attention dropout probability.
        document_groups: The cut made by `group_documents`; required.
        sliding_window: Tokens that a sliding-window layer looks back; None for full attention.
        softcap: Score soft-capping, which this function does not compute.
        s_aux: Attention sinks, which this function does not compute.

    Returns:
        The output of shape (1, N, H, D), and None in place of the weights.

    Raises:
        UserError: `stage-unsupported` for soft-capping or sinks, or where the architecture does not hand the documents
            on: silently leaving them out would train another model.
    """
    del attention_mask
    if document_groups is None:
        raise _unsupported("the architecture does not tell its attention where documents end")
    if softcap is not None or s_aux is not None:
        raise _unsupported("packed attention does not compute soft-capping or attention sinks")
    if key.shape[2] > query.shape[2]:
        return attend_after_prefix(
            query,
            key,
            value,
            document_groups=document_groups,
            scaling=scaling,
            dropout=dropout,
            sliding_window=sliding_window,
        ), None
    scaling = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    settings = AttentionSettings(scaling, dropout, sliding_window)
    if document_groups.recorded is not None:
        document_groups.recorded[module] = settings
    attended = _attend_at_once(query, key, value, document_groups, settings)
    if attended is not None:
        return attended.unsqueeze(0), None
    pieces: list[Tensor] = []
    for group in document_groups.groups:
        q_GHTD, k_GHTD, v_GHTD = (_cut(tensor, group) for tensor in (query, key, value))
        band = None
        if sliding_window is not None and group.width > sliding_window:
            band = torch.ones(group.width, group.width, dtype=torch.bool, device=query.device)
            band = band.tril().triu(1 - sliding_window)
        out_GHTD = F.scaled_dot_product_attention(
            q_GHTD, k_GHTD, v_GHTD, band, dropout, is_causal=band is None, scale=scaling, enable_gqa=True
        )
        flat = out_GHTD.transpose(1, 2).reshape(group.num_documents * group.width, query.shape[1], value.shape[3])
        pieces.append(flat if group.scatter is None else flat.index_select(0, group.scatter))
    return torch.cat(pieces).unsqueeze(0) if len(pieces) > 1 else pieces[0].unsqueeze(0), None


def _attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, groups: DocumentGroups, settings: AttentionSettings
) -> Tensor | None:
    """All documents (N, H, D) by a function that takes the packed row as it is, or None where none fits."""
    scaling, window = settings.scaling, settings.sliding_window
    if settings.dropout != 0 or query.shape[3] != value.shape[3] or query.dtype not in HALF_PRECISION:
        return None
    q_NHD, k_NHD, v_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    is_full = window is None or groups.longest <= window
    if query.device.type == "cpu":
        if not is_full or query.dtype != torch.bfloat16:
            return None
        return document_products(q_NHD, k_NHD, v_NHD, _layout(groups, query.shape[1], key.shape[1]), scaling)
    if varlen_attn is None or query.device.type != "cuda" or query.shape[3] % 8 or query.shape[3] > MAX_FLASH_HEAD:
        return None
    return cast(
        "Tensor",
        varlen_attn(
            q_NHD.contiguous(),
            k_NHD.contiguous(),
            v_NHD.contiguous(),
            groups.ends,
            groups.ends,
            groups.longest,
            groups.longest,
            scale=scaling,
            window_size=(-1 if is_full or window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        ),
    )


def _layout(groups: DocumentGroups, num_heads: int, num_key_heads: int) -> ProductLayout:
    """The groups' layout in the products, made once a batch."""
    key = (num_heads, num_key_heads)
    if key not in groups.layouts:
        positions = [(group.positions(), group.is_real()) for group in groups.groups]
        groups.layouts[key] = make_layout(positions, groups.groups[-1].stop, num_heads, num_key_heads)
    return groups.layouts[key]


def _cut(tensor_1HND: Tensor, group: DocumentGroup) -> Tensor:
    """The group's part of a packed tensor as (G, H, T, D)."""
    part_NHD = tensor_1HND[0, :, group.start : group.stop].transpose(0, 1)
    if group.gather is not None:
        part_NHD = part_NHD.index_select(0, group.gather)
    return part_NHD.reshape(group.num_documents, group.width, *part_NHD.shape[1:]).transpose(1, 2)


def use_packed_attention(model: nn.Module) -> None:
    """Switch a loaded causal model to attention per document; `packed_hidden_states` then feeds it.

    A probe of two short documents must give the logits that the model itself gives one by one. So an architecture that
    mixes documents in another way (recurrence, convolution), takes no part in transformers' attention interface, or
    does more than one matrix product in its head is refused here instead of being trained on wrong numbers. What small
    logits would not show to the probe, a bias or a soft-capping of the head, is refused by name.

    Raises:
        UserError: `stage-unsupported`.
    """
    AttentionInterface.register(NAME, attend_documents)
    was_training, name = model.training, type(model).__name__
    own = cast("str", model.config._attn_implementation)  # type: ignore[union-attr]
    _switch(model, NAME)
    if model.config._attn_implementation != NAME:  # type: ignore[union-attr]
        raise _unsupported(f"{name} takes no part in transformers' attention interface")
    if has_language_head(model):
        _require_plain_head(model)
    model.eval()
    documents = _probe_documents(model)
    packed = _packed_logits(model)
    _switch(model, "eager" if own == NAME else own)
    alone = _own_logits(model, documents)
    _switch(model, NAME)
    model.train(was_training)
    error, scale = float((packed - alone).norm()), float(alone.norm())
    if not error <= probe_tolerance(model) * scale:
        raise _unsupported(f"{name} gives other logits for packed rows, apart by {error:.3g} of {scale:.3g}")


def _require_plain_head(model: nn.Module) -> None:
    """Refuse a head that does more than multiply by its weight: losses are computed from that product alone.

    Raises:
        UserError: `stage-unsupported`.
    """
    name = type(model).__name__
    if getattr(model.get_output_embeddings(), "bias", None) is not None:  # type: ignore[operator]
        raise _unsupported(f"the head of {name} has a bias")
    config = model.config.get_text_config()  # type: ignore[union-attr]
    for setting, neutral in LOGIT_SETTINGS.items():
        value = getattr(config, setting, None)
        if value not in neutral:
            raise _unsupported(f"{name} changes the product of its head ({setting}: {value})")


def _switch(model: nn.Module, implementation: str) -> None:
    model.set_attn_implementation(implementation)  # type: ignore[operator]


def probe_batch(model: nn.Module) -> tuple[Tensor, Tensor, DocumentGroups]:
    """Ids, positions and groups of two short documents, by which two ways to run a model are compared."""
    documents = _probe_documents(model)
    positions = torch.cat([torch.arange(len(ids), device=ids.device) for ids in documents])
    return torch.cat(documents), positions, group_documents(PROBE_LENGTHS, documents[0].device)


def probe_tolerance(model: nn.Module) -> float:
    """Relative error of the probe that rounding explains."""
    return PROBE_TOLERANCE if next(model.parameters()).dtype == torch.float32 else PROBE_TOLERANCE_HALF


def _probe_documents(model: nn.Module) -> tuple[Tensor, ...]:
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    ids = torch.arange(1, sum(PROBE_LENGTHS) + 1, device=weight.device) * 7919 % weight.shape[0]
    return ids.split(PROBE_LENGTHS)


@torch.no_grad()
def _own_logits(model: nn.Module, documents: Sequence[Tensor]) -> Tensor:
    if has_language_head(model):
        return torch.cat([model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0] for ids in documents]).float()
    body = cast("nn.Module", model.base_model)
    outputs = [body(input_ids=ids.unsqueeze(0), use_cache=False) for ids in documents]
    return torch.cat([output.last_hidden_state[0] for output in outputs]).float()


@torch.no_grad()
def _packed_logits(model: nn.Module) -> Tensor:
    try:
        hidden_NC = packed_hidden_states(model, *probe_batch(model))
    except TypeError as error:
        raise _unsupported(f"{type(model).__name__} does not take packed rows: {error}") from error
    if not has_language_head(model):
        return hidden_NC.float()
    return (hidden_NC @ model.get_output_embeddings().weight.T).float()  # type: ignore[operator]


def has_language_head(model: nn.Module) -> bool:
    """Whether hidden states become logits of tokens; those of a classifier and of an embedding model do not."""
    return model.get_output_embeddings() is not None  # type: ignore[operator]


def _unsupported(problem: str) -> UserError:
    return UserError(
        "stage-unsupported",
        f"this base model cannot be trained on packed rows: {problem}",
        hint="choose a base model of the Llama, Mistral, Qwen, Gemma 1, Phi-3 or GPT-2 family",
    )


@contextmanager
def standard_attention(model: nn.Module) -> Iterator[None]:
    """Let a model that trains on packed rows generate for a while, and switch it back."""
    use_standard_attention(model)
    try:
        # Decoding has a new shape with every token; compiling each of them would take longer than it saves.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _switch(model, NAME)


def use_standard_attention(model: nn.Module) -> None:
    """Switch a model back to torch's own attention, for generating."""
    model.set_attn_implementation("sdpa")  # type: ignore[operator]


def packed_hidden_states(
    model: nn.Module,
    input_ids_N: Tensor,
    position_ids_N: Tensor,
    groups: DocumentGroups,
    wanted_M: Tensor | None = None,
) -> Tensor:
    """The last hidden states of a packed row, before the language-model head.

    Args:
        model: A model with packed attention switched on.
        input_ids_N: The packed ids.
        position_ids_N: Their positions, from 0 in each document.
        groups: The cut made by `group_documents`.
        wanted_M: Positions whose hidden states are asked for, each once, in rising order; None for all. Asking for
            few saves most of the last layer's work.

    Returns:
        Shape (N, C), or (M, C).
    """
    decoder = DECODERS.get(model)
    if decoder is not None:
        return decoder.hidden_states(input_ids_N, position_ids_N, groups, wanted_M)
    output = model.base_model(  # type: ignore[operator]
        input_ids=input_ids_N.unsqueeze(0),
        position_ids=position_ids_N.unsqueeze(0),
        use_cache=False,
        document_groups=groups,
    )
    hidden_NC = output.last_hidden_state[0]
    return hidden_NC if wanted_M is None else hidden_NC.index_select(0, wanted_M)
