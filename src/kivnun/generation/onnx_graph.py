"""What an exported folder says of its graph, and whether rows of different lengths may share a step of it.

They may where every layer keeps its keys and values through `GroupQueryAttention` (onnxruntime's contrib operators),
as in all that the model builder and Kivnun export for a CPU: the operator is told the length of each row, which those
graphs take from the sums of the attention mask's rows and from nothing else. Any other graph is refused: it would
compute wrong answers without a word.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from kivnun.errors import UserError

CONFIG_NAME = "genai_config.json"
LOGITS = "logits"
ATTENTION = "GroupQueryAttention"
# The operator's inputs with the past keys and values.
_PAST_PLACES = (3, 4)
# Sides of the graph, and what keys and values are called there.
_SIDES = (("inputs", "past"), ("outputs", "present"))
_SESSION_OPTIONS = frozenset(
    {"log_id", "log_severity_level", "provider_options", "intra_op_num_threads", "inter_op_num_threads"}
)


@dataclass(frozen=True)
class RowGraph:
    """A graph that computes rows of different lengths side by side.

    Attributes:
        path: Of the graph.
        context_tokens: Most tokens of a row, so that none changes how others are computed.
        num_heads: Heads of keys and values in each.
        head_size: Numbers of a head.
        vocab_size: Logits of a token.
        past_names: Inputs with what a row holds: keys and values of the first layer, of the second, and so on.
        present_names: Outputs likewise.
        has_positions: Whether it is told the place of each token.
        adapter_names: Inputs that an adapter fills.
        num_threads: Cores that it asks for; None for all.
    """

    path: Path
    context_tokens: int
    num_heads: int
    head_size: int
    vocab_size: int
    past_names: tuple[str, ...]
    present_names: tuple[str, ...]
    has_positions: bool
    adapter_names: frozenset[str]
    num_threads: int | None


def read_graph(folder: Path) -> RowGraph:
    """What a folder's graph is like.

    Args:
        folder: Holds genai_config.json and model.onnx.

    Raises:
        UserError: model-invalid where files are missing or damaged, or rows of different lengths cannot share a step.
    """
    model = _read_config(folder)
    try:
        decoder = model["decoder"]
        options = decoder["session_options"]
        num_layers, num_heads = int(decoder["num_hidden_layers"]), int(decoder["num_key_value_heads"])
        _require_options(folder, options)
        # Only the name of a file beside the config, so that no folder points elsewhere.
        path = folder / Path(decoder["filename"]).name
        graph = _load_graph(folder, path)
        past, present = (_layer_names(decoder[side], kind, num_layers) for side, kind in _SIDES)
        _require_rows(folder, graph, past, num_heads)
        inputs = {each.name for each in graph.input}
        weights = {tensor.name for tensor in graph.initializer}
        return RowGraph(
            path=path,
            context_tokens=min([int(model["context_length"]), *_switches(folder, graph)]),
            num_heads=num_heads,
            head_size=int(decoder["head_size"]),
            vocab_size=_logits_width(folder, graph) or int(model["vocab_size"]),
            past_names=past,
            present_names=present,
            has_positions="position_ids" in inputs,
            adapter_names=frozenset(inputs & weights),
            num_threads=options.get("intra_op_num_threads"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise graph_invalid(folder, f"{CONFIG_NAME} cannot be read: {error!r}") from error


def graph_invalid(folder: Path, detail: str) -> UserError:
    """The error of a folder that cannot serve rows."""
    return UserError(
        "model-invalid",
        f"{folder} is not an ONNX model whose answers can be computed side by side",
        hint="export the model again with `kivnun optimize`, for the CPU",
        details=[detail],
    )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CONFIG_NAME).read_bytes())["model"]
    except FileNotFoundError as error:
        raise graph_invalid(folder, f"{CONFIG_NAME} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise graph_invalid(folder, f"{CONFIG_NAME} cannot be read: {error!r}") from error


def _load_graph(folder: Path, path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's errors share no ancestor but this
        raise graph_invalid(folder, f"{path.name} cannot be read: {str(error)[:300]}") from error


def _layer_names(names: Mapping[str, str], kind: str, num_layers: int) -> tuple[str, ...]:
    patterns = (names[f"{kind}_key_names"], names[f"{kind}_value_names"])
    return tuple(pattern % layer for layer in range(num_layers) for pattern in patterns)


def _require_options(folder: Path, options: Mapping[str, Any]) -> None:
    if options.get("provider_options"):
        raise graph_invalid(folder, "it was exported for another device than the CPU")
    unknown = sorted(set(options) - _SESSION_OPTIONS)
    if unknown:
        raise graph_invalid(folder, f"{CONFIG_NAME} has session options that are not known here: {', '.join(unknown)}")


def _logits_width(folder: Path, graph: onnx.GraphProto) -> int:
    """How many logits the graph says it gives; 0 where it does not say."""
    tensor = next(each for each in graph.output if each.name == LOGITS).type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        raise graph_invalid(folder, "its logits are not fp32")
    return tensor.shape.dim[-1].dim_value


def _switches(folder: Path, graph: onnx.GraphProto) -> list[int]:
    """Lengths of the longest row beyond which the graph computes all rows of a step otherwise, as LongRoPE does."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    numbers = {tensor.name: tensor for tensor in graph.initializer}
    numbers |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    widths = [part for node in readers["attention_mask"] if node.op_type == "Shape" for part in readers[node.output[0]]]
    found: list[int] = []
    for width in widths:
        for reader in readers.get(width.output[0], []):
            if reader.op_type == "Greater" and reader.input[0] == width.output[0] and reader.input[1] in numbers:
                found.append(int(numpy_helper.to_array(numbers[reader.input[1]])))
            elif reader.op_type != "Cast" or any(each.op_type != ATTENTION for each in readers[reader.output[0]]):
                raise graph_invalid(folder, f"{reader.op_type} reads the width of the attention mask")
    return found


def _require_rows(folder: Path, graph: onnx.GraphProto, past: tuple[str, ...], num_heads: int) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    asked = {each.name: each for each in graph.input if each.name not in weights}
    unknown = sorted(set(asked) - {"input_ids", "attention_mask", "position_ids", *past})
    missing = sorted({"input_ids", "attention_mask", *past} - set(asked))
    if unknown or missing:
        raise graph_invalid(folder, f"the graph has inputs {unknown} that are not known here, and lacks {missing}")
    for name in past:
        tensor = asked[name].type.tensor_type
        if tensor.elem_type != TensorProto.FLOAT or tensor.shape.dim[1].dim_value != num_heads:
            raise graph_invalid(folder, f"{name} is not of {num_heads} heads in fp32")
    held = set(past)
    for node in graph.node:
        is_attention = node.op_type == ATTENTION
        read = {name for place, name in enumerate(node.input) if not is_attention or place not in _PAST_PLACES}
        if held & read:
            raise graph_invalid(folder, f"{node.op_type} reads keys and values; only {ATTENTION} is known here")
        if "attention_mask" in node.input and node.op_type not in ("ReduceSum", "Shape"):
            raise graph_invalid(folder, f"{node.op_type} reads the attention mask; only its row sums are given here")
