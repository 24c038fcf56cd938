"""A model of the Llama kind run layer by layer through `fused.py`, on packed rows.

`fuse_layers` reads a loaded model and switches `packed_hidden_states` to it. Nothing in the model is replaced: its
modules keep the weights, are read again for each batch, and still generate, save and load as before. A layer that is
not of this kind (by its modules, by a parameter that nobody accounts for, or by what it computes for a probe) runs as
transformers wrote it, between fused ones.

Shapes: N packed tokens, C channels, M wanted positions, E half of a head's size.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field
from torch.utils.checkpoint import checkpoint

from kivnun.models.attention import (
    DECODERS,
    PROBE_TOLERANCE,
    AttentionSettings,
    DocumentGroups,
    attend_documents,
    group_documents,
    packed_hidden_states,
    probe_batch,
    probe_tolerance,
)
from kivnun.models.fused import After, Before, Norm, after_attention, before_attention
from kivnun.models.hidden_cache import HiddenStateCache
from kivnun.models.kernels import EAGER, Kernels
from kivnun.models.projections import Projection, ReadProjection, read_linear

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
# What a probe of a model of another kind may run into; it then runs as transformers wrote it.
PROBE_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError)
# Documents of a layer's probe: rotations differ little at the first positions.
LAYER_PROBE_LENGTHS = (7, 64)
# Error that float32 explains, of what a layer adds, and of the residual stream to which it is added.
LAYER_TOLERANCE, FLOAT32_ROUNDING = 1e-4, 1e-6
# Up to this many parameters of all layers together each layer is probed.
PROBE_ALL_PARAMETERS = 20_000_000
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class FusedLayer:
    """A decoder layer of the Llama kind, and what was found out about it once.

    Attributes:
        layer: The layer's own module.
        norm_offsets: What the two norms add to their weights.
        activation: Name of the gate's activation.
        attention: What transformers hands to this layer's attention beside queries, keys and values.
    """

    layer: nn.Module
    norm_offsets: tuple[float, float]
    activation: str
    attention: AttentionSettings

    def read(self, read: ReadProjection) -> tuple[Before, After] | None:
        """The layer's weights as they are now, or None where one is not of a form that can be fused at this moment."""
        attention, feed_forward = cast("nn.Module", self.layer.self_attn), cast("nn.Module", self.layer.mlp)
        modules = [getattr(attention, name) for name in ATTENTION] + [
            getattr(feed_forward, name) for name in FEED_FORWARD
        ]
        found = [read(module) for module in modules]
        inner = [module for module in self.layer.modules() if module is not self.layer]
        changed = _is_changed(inner if _is_recomputed(self.layer) else [self.layer, *inner])
        if None in found or changed:
            return None
        projections = cast("list[Projection]", found)
        first, second = (
            Norm(cast("Tensor", norm.weight), offset, cast("float", _epsilon(norm)))
            for norm, offset in zip((getattr(self.layer, name) for name in NORMS), self.norm_offsets, strict=True)
        )
        head_size = cast("int", attention.head_dim)
        before = Before(first, tuple(projections[:3]), head_size)
        return before, After(second, tuple(projections[3:]), self.activation)


@dataclass
class FusedDecoder:
    """A model's decoder as `packed_hidden_states` runs it.

    Attributes:
        embeddings: The input embeddings.
        norm: The norm behind the last layer.
        rotary: The rotary embedding's tables.
        layers: Each layer, as a fused one where it is of that kind.
        read: Reads what a linear module computes with.
        kernels: The element-wise parts, eager or compiled.
        cache: What is kept of the layers below the first trained one, or None.
    """

    # No part of it is the model itself, which it would otherwise keep alive.
    embeddings: nn.Module
    norm: nn.Module
    rotary: nn.Module
    layers: list[FusedLayer | nn.Module]
    read: ReadProjection
    kernels: Kernels = field(default=EAGER)
    cache: HiddenStateCache | None = None

    def hidden_states(
        self, input_ids_N: Tensor, position_ids_N: Tensor, groups: DocumentGroups, wanted_M: Tensor | None
    ) -> Tensor:
        """The last hidden states of a packed row: of all positions (N, C), or of the wanted ones (M, C)."""
        first, last = 0, len(self.layers)
        if self.cache is None:
            x_NC = self.embeddings(input_ids_N)
        else:
            first = self.cache.first_layer
            x_NC = self.cache.states(input_ids_N, position_ids_N, groups.ends, self._lower_states)
        return self.norm(self.run_layers(first, last, x_NC, position_ids_N, groups, wanted_M))

    def first_trained_layer(self) -> int:
        """The lowest layer with a trained weight; 0 where the embeddings are trained, or a lower layer is random."""
        if any(parameter.requires_grad for parameter in self.embeddings.parameters()):
            return 0
        for index, layer in enumerate(self.layers):
            # Another kind of layer may drop out.
            if not isinstance(layer, FusedLayer) or any(p.requires_grad for p in layer.layer.parameters()):
                return index
        return len(self.layers)

    def keep_lower_states(self, limit_bytes: int) -> bool:
        """Keep what the frozen lower layers make of each document; returns whether there are any."""
        first = self.first_trained_layer()
        self.cache = HiddenStateCache(first, limit_bytes) if first > 0 else None
        return self.cache is not None

    def _lower_states(self, input_ids_T: Tensor, position_ids_T: Tensor) -> Tensor:
        groups = group_documents([len(input_ids_T)], input_ids_T.device)
        x_TC = self.embeddings(input_ids_T)
        last = self.first_trained_layer() if self.cache is None else self.cache.first_layer
        return self.run_layers(0, last, x_TC, position_ids_T, groups)

    def run_layers(
        self,
        first: int,
        last: int,
        x_NC: Tensor,
        position_ids_N: Tensor,
        groups: DocumentGroups,
        wanted_M: Tensor | None = None,
    ) -> Tensor:
        """The residual stream behind layer `last - 1`, from that before layer `first`; only wanted positions of it."""
        if first >= last:
            return x_NC if wanted_M is None else x_NC.index_select(0, wanted_M)
        row = self.row(x_NC.dtype, position_ids_N, groups)
        for index in range(first, last):
            layer = self.layers[index]
            x_NC = self._run(layer, x_NC, row, wanted_M if index == last - 1 else None)
        return x_NC

    def row(self, dtype: torch.dtype, position_ids_N: Tensor, groups: DocumentGroups) -> "Row":
        """What layers that compute in a dtype need to know of a packed row."""
        like = torch.empty(0, dtype=dtype, device=position_ids_N.device)
        rotary = self.rotary(like, position_ids_N.unsqueeze(0))
        cos_NE, sin_NE = (table[0, :, : table.shape[-1] // 2].contiguous() for table in rotary)
        return Row(position_ids_N, groups, rotary, cos_NE, sin_NE)

    def _run(self, layer: FusedLayer | nn.Module, x_NC: Tensor, row: "Row", wanted_M: Tensor | None) -> Tensor:
        parts = layer.read(self.read) if isinstance(layer, FusedLayer) else None
        if parts is None or not isinstance(layer, FusedLayer):
            whole_NC = _run_whole(layer.layer if isinstance(layer, FusedLayer) else layer, x_NC, row)
            return whole_NC if wanted_M is None else whole_NC.index_select(0, wanted_M)
        inputs = (layer, parts, x_NC, row, wanted_M)
        if not (_is_recomputed(layer.layer) and layer.layer.training and torch.is_grad_enabled()):
            return self.run_fused(*inputs)
        again = checkpoint(self.run_fused, *inputs, use_reentrant=False, preserve_rng_state=False)
        return cast("Tensor", again)

    def run_fused(
        self, layer: FusedLayer, parts: tuple[Before, After], x_NC: Tensor, row: "Row", wanted_M: Tensor | None
    ) -> Tensor:
        """The residual stream behind one layer, from that before it.

        Args:
            layer: The layer.
            parts: Its weights, as `read` gave them.
            x_NC: The residual stream.
            row: The packed row.
            wanted_M: Positions that are asked for; None for all.
        """
        before, after = parts
        x_NC, *heads = before_attention(before, self.kernels, x_NC, row.cos, row.sin)
        q_1HND, k_1HND, v_1HND = (part_NHD.transpose(0, 1).unsqueeze(0) for part_NHD in heads)
        attended_1NHD, _ = attend_documents(
            layer.layer,
            q_1HND,  # pyright: ignore[reportCallIssue] the function's decorator hides its parameters
            k_1HND,
            v_1HND,
            None,
            scaling=layer.attention.scaling,
            dropout=layer.attention.dropout,
            document_groups=row.groups,
            sliding_window=layer.attention.sliding_window,
        )
        attended_NC = attended_1NHD[0].flatten(1)
        if wanted_M is not None:
            x_NC, attended_NC = x_NC.index_select(0, wanted_M), attended_NC.index_select(0, wanted_M)
        return after_attention(after, self.kernels, x_NC, attended_NC)


@dataclass(frozen=True)
class Row:
    """What every layer needs to know of a packed row."""

    position_ids: Tensor
    groups: DocumentGroups
    rotary: tuple[Tensor, Tensor]
    cos: Tensor
    sin: Tensor


def _run_whole(layer: nn.Module, x_NC: Tensor, row: Row) -> Tensor:
    """A layer as transformers wrote it."""
    return layer(
        x_NC.unsqueeze(0),
        attention_mask=None,
        position_ids=row.position_ids.unsqueeze(0),
        position_embeddings=row.rotary,
        use_cache=False,
        document_groups=row.groups,
    )[0]


def read_decoder(model: nn.Module, read: ReadProjection = read_linear) -> tuple[FusedDecoder, Tensor] | None:
    """A model's decoder, and what the model's own code makes of the probe's batch.

    None where no layer is of the Llama kind, or the whole is put together in another way.

    Args:
        model: A causal model in evaluation mode with packed attention switched on.
        read: Reads what a linear module computes with.
    """
    base = cast("nn.Module", model.base_model)
    layers = getattr(base, "layers", None)
    has_parts = all(isinstance(getattr(base, name, None), nn.Module) for name in ("norm", "rotary_emb"))
    if not isinstance(layers, nn.ModuleList) or not has_parts or _is_changed([base]):
        return None
    attention, own_NC = _record_attention(model)
    found = [_read_layer(layer, read, attention) or layer for layer in layers]
    if not any(isinstance(layer, FusedLayer) for layer in found):
        return None
    embeddings = cast("nn.Module", base.get_input_embeddings())  # type: ignore[operator]
    norm, rotary = cast("nn.Module", base.norm), cast("nn.Module", base.rotary_emb)
    return FusedDecoder(embeddings, norm, rotary, found, read), own_NC


def fuse_layers(model: nn.Module, read: ReadProjection = read_linear) -> FusedDecoder | None:
    """Let `packed_hidden_states` run a model's layers fused, where they are of the Llama kind; else change nothing.

    Three probes must come out alike: the model's own code and the decoder with the layers as transformers wrote them,
    which tells of anything around the layers; each kind of layer fused and as it was written, in float32, so that no
    rounding hides a difference; and the whole, fused, in the model's own number format. A model that cannot be probed
    is not fused.

    Args:
        model: A causal model with packed attention switched on, on its device, its adapters in place.
        read: Reads what a linear module computes with.
    """
    unfuse_layers(model)
    was_training = model.training
    model.eval()
    try:
        found = read_decoder(model, read)
        if found is None or not _is_faithful(model, *found):
            return None
    except PROBE_ERRORS:
        return None
    finally:
        model.train(was_training)
    decoder, _ = found
    DECODERS[model] = decoder
    return decoder


@torch.no_grad()
def _is_faithful(model: nn.Module, decoder: FusedDecoder, own_NC: Tensor) -> bool:
    """Whether the decoder computes what the model's own code made of the probe's batch."""
    batch = probe_batch(model)
    as_written = replace(decoder, layers=[_module(layer) for layer in decoder.layers])
    if not _is_close(as_written.hidden_states(*batch, None), own_NC, PROBE_TOLERANCE):
        return False
    if not all(_is_layer_faithful(decoder, layer) for layer in _layers_to_probe(decoder.layers)):
        return False
    return _is_close(decoder.hidden_states(*batch, None), own_NC, probe_tolerance(model))


def _is_close(ours: Tensor, own: Tensor, tolerance: float) -> bool:
    ours, own = ours.float(), own.float()
    return float((ours - own).norm()) <= tolerance * float(own.norm())


def _layers_to_probe(layers: Sequence[FusedLayer | nn.Module]) -> list[FusedLayer]:
    """All fused layers where they are small, else one of each kind: a large one takes up to a second, in float32."""
    fused = [(index, layer) for index, layer in enumerate(layers) if isinstance(layer, FusedLayer)]
    if sum(parameter.numel() for _, layer in fused for parameter in layer.layer.parameters()) <= PROBE_ALL_PARAMETERS:
        return [layer for _, layer in fused]
    return list({_kind(layer, index, len(layers)): layer for index, layer in fused}.values())


def _kind(layer: FusedLayer, index: int, num_layers: int) -> str:
    """All that a layer's code may go by, other than its weights: the settings of its modules and its place in lists."""
    modules = layer.layer.named_modules()
    settings = [(name, type(module).__name__, _settings(module)) for name, module in modules]
    config: dict[str, Any] = vars(getattr(layer.layer.self_attn, "config", layer.layer))
    lists = [
        (key, repr(config[key][index]))
        for key in sorted(config)
        if isinstance(config[key], list | tuple) and len(config[key]) == num_layers
    ]
    return repr((settings, lists, layer.norm_offsets, layer.activation, layer.attention))


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    plain = bool | int | float | str | None
    return sorted(
        (name, repr(value)) for name, value in vars(module).items() if name != "layer_idx" and isinstance(value, plain)
    )


def _is_layer_faithful(decoder: FusedDecoder, layer: FusedLayer) -> bool:
    """Whether a layer adds the same to the residual stream fused and as transformers wrote it, in float32."""
    exact = replace(layer, layer=_float32_copy(layer.layer))
    parts = exact.read(decoder.read)
    if parts is None:
        return False
    weight_C = parts[0].norm.weight
    row = decoder.row(torch.float32, *_probe_positions(weight_C.device))
    generator = torch.Generator().manual_seed(0)
    x_NC = torch.randn(len(row.position_ids), len(weight_C), generator=generator).to(weight_C.device)
    own_NC, fused_NC = _run_whole(exact.layer, x_NC, row), decoder.run_fused(exact, parts, x_NC, row, None)
    scale = LAYER_TOLERANCE * float((own_NC - x_NC).norm()) + FLOAT32_ROUNDING * float(x_NC.norm())
    return float((fused_NC - own_NC).norm()) <= scale


def _probe_positions(device: torch.device) -> tuple[Tensor, DocumentGroups]:
    """Two documents, one of them long enough for a rotation by its positions to matter."""
    positions_N = torch.cat([torch.arange(length, device=device) for length in LAYER_PROBE_LENGTHS])
    return positions_N, group_documents(LAYER_PROBE_LENGTHS, device)


def _float32_copy(layer: nn.Module) -> nn.Module:
    """A copy of one layer with its numbers in float32; 4-bit weights stay as they are."""
    wide: dict[int, object] = {}
    for parameter in layer.parameters():
        if parameter.is_floating_point():
            wide[id(parameter)] = nn.Parameter(parameter.detach().to(torch.float32, copy=True), requires_grad=False)
    copied = copy.deepcopy(layer, wide)
    if _is_recomputed(layer):
        # The forward that computes twice is that of the layer itself, not of the copy.
        vars(copied).pop("forward", None)
    return copied


def _module(layer: FusedLayer | nn.Module) -> nn.Module:
    return layer.layer if isinstance(layer, FusedLayer) else layer


def unfuse_layers(model: nn.Module) -> None:
    """Let `packed_hidden_states` run a model as transformers wrote it again."""
    DECODERS.pop(model, None)


@torch.no_grad()
def _record_attention(model: nn.Module) -> tuple[dict[nn.Module, AttentionSettings], Tensor]:
    """What each attention module hands to its function beside queries, keys and values, and the hidden states."""
    input_ids_N, position_ids_N, groups = probe_batch(model)
    recorded: dict[nn.Module, AttentionSettings] = {}
    own_NC = packed_hidden_states(model, input_ids_N, position_ids_N, replace(groups, recorded=recorded))
    return recorded, own_NC


def _read_layer(
    layer: nn.Module, read: ReadProjection, recorded: Mapping[nn.Module, AttentionSettings]
) -> FusedLayer | None:
    """The layer as a fused one, or None where it is not of that kind."""
    attention = getattr(layer, "self_attn", None)
    names = [*(f"self_attn.{name}" for name in ATTENTION), *(f"mlp.{name}" for name in FEED_FORWARD), *NORMS]
    modules = dict(layer.named_modules())
    if attention not in recorded or any(name not in modules for name in names):
        return None
    norms = [modules[name] for name in NORMS]
    offsets = [_norm_offset(norm) for norm in norms]
    activation = _activation_name(getattr(layer.mlp, "act_fn", None))
    if activation is None or None in offsets or getattr(attention, "attention_dropout", 0):
        return None
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules.values()):
        return None
    fused = FusedLayer(layer, tuple(offsets), activation, recorded[attention])  # type: ignore[arg-type]
    parts = fused.read(read)
    if parts is None:
        return None
    used = [part.norm.weight for part in parts]
    used += [tensor for part in parts for projection in part.projections for tensor in projection.tensors()]
    # A parameter that the fused code does not know of does something that it does not do.
    is_whole = {id(parameter) for parameter in layer.parameters()} == {
        id(tensor) for tensor in used if tensor is not None
    }
    return fused if is_whole else None


@torch.no_grad()
def _norm_offset(norm: nn.Module) -> float | None:
    """What a norm adds to its weight (0 or 1) if it computes an RMSNorm, else None."""
    weight, eps = getattr(norm, "weight", None), _epsilon(norm)
    if not isinstance(weight, Tensor) or eps is None:
        return None
    x_NC = torch.linspace(-2, 3, 3 * len(weight), dtype=torch.float32, device=weight.device).view(3, -1)
    x_NC = x_NC.to(weight.dtype)
    own_NC = norm(x_NC).float()
    for offset in (0.0, 1.0):
        fused_NC = EAGER.rms_norm(x_NC, weight.float() + offset, eps)[0].float()
        if float((fused_NC - own_NC).norm()) <= 0.02 * float(own_NC.norm()):
            return offset
    return None


@torch.no_grad()
def _activation_name(function: Callable[[Tensor], Tensor] | None) -> str | None:
    if function is None:
        return None
    x = torch.linspace(-6, 6, 101)
    return next((name for name, own in ACTIVATIONS.items() if torch.allclose(function(x), own(x), atol=1e-6)), None)


def _epsilon(norm: nn.Module) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _is_recomputed(layer: nn.Module) -> bool:
    """Whether the layer is to be computed again in the backward pass; see `training.memory.recompute_layers`."""
    return getattr(layer, "is_recomputed", False) is True


def _is_changed(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody watches or changes what goes through modules, such as FSDP, which gathers weights."""
    return any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        for module in modules
    )
