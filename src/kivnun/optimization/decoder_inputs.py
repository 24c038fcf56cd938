"""A decoder layer by layer: what its matrices read, what they read on calibration rows, and what it passes on.

Rows are never padded: those of one length run together. Shapes: N tokens, T tokens of one row, R rows of one length,
C channels, I inputs, S channels of an input's source.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

ROWS_AT_ONCE = 16
# The builder's loader reads these; each holds one decoder of layers that `read_layer` knows.
ARCHITECTURES = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)


@dataclass(frozen=True)
class SharedInput:
    """Matrices of a layer that read one input, and where it comes from.

    Attributes:
        readers: The matrices, by their names in the layer.
        source: The norm, or the matrix, whose output reaches them channel by channel.
        num_channels: Channels of the source that do: its last ones.
        num_repeats: Inputs that each channel is copied to, one head behind the other.
        head_size: Channels of one head; 1 where nothing is repeated.
    """

    readers: Mapping[str, nn.Linear]
    source: nn.Module
    num_channels: int
    num_repeats: int = 1
    head_size: int = 1

    def expand(self, values_S: Tensor) -> Tensor:
        """A value per channel of the source, as one per input."""
        heads = values_S.view(-1, 1, self.head_size)
        return heads.expand(-1, self.num_repeats, -1).reshape(-1)

    def reduce(self, values_I: Tensor) -> Tensor:
        """A value per input, as the mean over the inputs that read each channel of the source."""
        return values_I.view(-1, self.num_repeats, self.head_size).mean(1).reshape(-1)

    def scale(self, scales_S: Tensor) -> None:
        """Divide the source's channels and multiply the readers' inputs: the layer computes what it did.

        Args:
            scales_S: A positive number for each channel.
        """
        for reader in self.readers.values():
            reader.weight.data *= self.expand(scales_S)
        weight, bias = cast("Tensor", self.source.weight), cast("Tensor | None", getattr(self.source, "bias", None))
        if isinstance(self.source, nn.Linear):
            weight.data[-self.num_channels :] /= scales_S[:, None]
        else:
            offset = norm_offset(self.source)
            weight.data.copy_((weight.data + offset) / scales_S - offset)
        if bias is not None:
            bias.data[-self.num_channels :] /= scales_S


@torch.no_grad()
def norm_offset(norm: nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 1 in Gemma, 0 elsewhere."""
    weight = cast("Tensor", norm.weight)
    # The root mean square of ones is 1, so that the norm gives its factor.
    return float((norm(torch.ones_like(weight)) - weight).mean().round())


def read_layer(layer: nn.Module) -> list[SharedInput]:
    """What the matrices of a decoder layer read, in the order in which the layer computes it.

    Args:
        layer: A layer of one of `ARCHITECTURES`.
    """
    modules = dict(layer.named_modules())
    linears = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}

    def shared(names: Sequence[str], source: str, *shape: int) -> SharedInput:
        readers = {name: linears[name] for name in names if name in linears}
        width = next(iter(readers.values())).in_features
        return SharedInput(readers, modules[source], *(shape or (width,)))

    attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj")
    gates = ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj")
    values = "self_attn.v_proj" if "self_attn.v_proj" in linears else "self_attn.qkv_proj"
    ups = "mlp.up_proj" if "mlp.up_proj" in linears else "mlp.gate_up_proj"
    is_between = "pre_feedforward_layernorm" in modules
    head_size = cast("int", modules["self_attn"].head_dim)
    num_repeats = cast("int", modules["self_attn"].num_key_value_groups)
    num_values = linears["self_attn.o_proj"].in_features // num_repeats
    return [
        shared(attention, "input_layernorm"),
        shared(["self_attn.o_proj"], values, num_values, num_repeats, head_size),
        shared(gates, "pre_feedforward_layernorm" if is_between else "post_attention_layernorm"),
        shared(["mlp.down_proj"], ups),
    ]


@dataclass
class InputStatistics:
    """What is kept of an input over all tokens.

    Attributes:
        hessian: `2 X X^T`, (I, I), in float64.
        magnitudes: Sum of absolute values, (I).
        num_tokens: Tokens seen.
    """

    hessian: Tensor
    magnitudes: Tensor
    num_tokens: int = 0

    @classmethod
    def empty(cls, width: int) -> "InputStatistics":
        """Of no tokens yet."""
        return cls(torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def add(self, x_NI: Tensor) -> None:
        """Count tokens in."""
        self.hessian += 2 * (x_NI.T @ x_NI)
        self.magnitudes += x_NI.abs().sum(0)
        self.num_tokens += len(x_NI)


@dataclass
class RowBatch:
    """Rows of one length on their way through the decoder.

    Attributes:
        states: The residual stream before the next layer, (R, T, C).
        settings: What the model hands to each layer beside it.
    """

    states: Tensor
    settings: list[dict[str, Any]]


@torch.no_grad()
def start_rows(model: nn.Module, layers: Sequence[nn.Module], rows: Iterable[Sequence[int]]) -> list[RowBatch]:
    """Embed rows and record what the model hands to each of its layers.

    Args:
        model: The causal model.
        layers: Its decoder layers, in order.
        rows: Token ids.
    """
    by_length: dict[int, list[Sequence[int]]] = defaultdict(list)
    for row in rows:
        by_length[len(row)].append(row)
    return [
        _start(model, layers, torch.tensor(same[start : start + ROWS_AT_ONCE]))
        for _, same in sorted(by_length.items())
        for start in range(0, len(same), ROWS_AT_ONCE)
    ]


def _start(model: nn.Module, layers: Sequence[nn.Module], input_ids_RT: Tensor) -> RowBatch:
    found: list[tuple[Tensor, dict[str, Any]]] = []

    def record(_: nn.Module, arguments: tuple[Tensor, ...], settings: dict[str, Any]) -> None:
        found.append((arguments[0], settings))

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        cast("nn.Module", model.base_model)(input_ids_RT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return RowBatch(found[0][0], [settings for _, settings in found])


@torch.no_grad()
def observe(
    layer: nn.Module, index: int, batches: Sequence[RowBatch], inputs: Sequence[SharedInput]
) -> list[InputStatistics]:
    """Run a layer on all rows and keep statistics of some of its matrices' inputs; what it passes on is dropped.

    Args:
        layer: The layer.
        index: Its number.
        batches: The rows before it.
        inputs: What to watch.
    """
    readers = [next(iter(each.readers.values())) for each in inputs]
    statistics = [InputStatistics.empty(reader.in_features) for reader in readers]
    hooks = [reader.register_forward_pre_hook(_adder(kept)) for reader, kept in zip(readers, statistics, strict=True)]
    try:
        for batch in batches:
            _run(layer, index, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return statistics


def _adder(statistics: InputStatistics) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def add(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        statistics.add(arguments[0].flatten(0, -2))

    return add


@torch.no_grad()
def pass_on(layer: nn.Module, index: int, batches: Sequence[RowBatch]) -> None:
    """Move all rows behind a layer, as it is now."""
    for batch in batches:
        batch.states = _run(layer, index, batch)


def _run(layer: nn.Module, index: int, batch: RowBatch) -> Tensor:
    output = layer(batch.states, **batch.settings[index])
    return output[0] if isinstance(output, tuple) else output
