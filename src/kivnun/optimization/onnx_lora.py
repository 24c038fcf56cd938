"""Room for LoRA adapters in an ONNX graph: every linear layer of its blocks gets two inputs that an adapter fills.

y = x W + b becomes y = x W + b + (x A) B (Hu et al. 2021, arXiv:2106.09685, eq. 3), with A (I, R) and B (R, O). A and B
are inputs of the graph with a default of zeros, so that the graph runs without an adapter and then computes what it did
before, bit for bit. Their rank is a free dimension of each layer. The inputs are named after the layer, alike in every
number format: an adapter may be added or removed without touching the graph.

Shapes: I in, O out, R rank.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kivnun.runs import write_atomic

MODEL_NAME = "model.onnx"
A_SUFFIX, B_SUFFIX = ".lora_A", ".lora_B"
# The builder's names: `/model/layers.0/attn/q_proj/MatMul`, which int4 extends to `MatMul_Q4`.
_LAYER_NODE = re.compile(r"/model/layers\.\d+/(?:attn|mlp)/\w+/MatMul(?:_Q\d)?")
# A layer of a Hugging Face model: the number of its block, then its name in the block.
_LAYER_NAME = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)\.(.+)")
# Layers that hold several matrices, whose outputs stand one after another; the builder takes them apart.
_STACKED: Mapping[str, tuple[str, ...]] = {
    "self_attn.qkv_proj": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "attn.c_attn": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
# Layers that the builder calls otherwise.
_RENAMED: Mapping[str, str] = {
    "self_attn.dense": "attn.o_proj",
    "attn.c_proj": "attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True)
class Place:
    """A linear layer of the graph that an adapter may change.

    Attributes:
        name: Such as `model.layers.0.attn.q_proj`.
        num_in: Numbers that the layer reads.
        num_out: Numbers that it writes.
    """

    name: str
    num_in: int
    num_out: int


def put_places(folder: Path) -> tuple[Place, ...]:
    """Give the graph in a folder its inputs for adapters; the weights beside it stay as they are.

    Args:
        folder: An ONNX folder whose queries, keys and values are separate layers (the builder's `fuse_qkv=false`).
    """
    path = folder / MODEL_NAME
    model = onnx.load(path, load_external_data=False)
    places = put_places_into(model.graph)
    write_atomic(path, model.SerializeToString())
    return places


def put_places_into(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """The same for a graph in memory, which is changed."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes = list(graph.node)
    places: list[Place] = []
    after: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        if _LAYER_NODE.fullmatch(node.name) and node.op_type in ("MatMul", "MatMulNBits") and node.input[1] in sizes:
            place = _place_of(node, sizes)
            last = _with_bias(node, nodes, sizes)
            after[last.name] = _add_update(place, node.input[0], last)
            places.append(place)
    del graph.node[:]
    for node in nodes:
        graph.node.extend([node, *after.get(node.name, ())])
    for place in places:
        _add_inputs(graph, place)
    return tuple(places)


def read_places(folder: Path) -> tuple[Place, ...]:
    """The layers of a folder's graph that have inputs for adapters."""
    graph = onnx.load(folder / MODEL_NAME, load_external_data=False).graph
    shapes = {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.name.endswith((A_SUFFIX, B_SUFFIX))
    }
    names = [name.removesuffix(A_SUFFIX) for name in shapes if name.endswith(A_SUFFIX)]
    return tuple(Place(name, shapes[name + A_SUFFIX][0], shapes[name + B_SUFFIX][1]) for name in names)


def place_names(layer: str) -> tuple[str, ...]:
    """Names of the places that a layer of the Hugging Face model may have in the graph; several where it is stacked.

    Args:
        layer: Such as `model.layers.0.self_attn.q_proj`.
    """
    match = _LAYER_NAME.fullmatch(layer)
    if match is None:
        return (layer,)
    number, part = match.groups()
    parts = _STACKED.get(part) or (_RENAMED.get(part, part.replace("self_attn.", "attn.")),)
    return tuple(f"model.layers.{number}.{each}" for each in parts)


def fill_places(
    layer: str, a_RI: NDArray[np.float32], b_OR: NDArray[np.float32], places: Mapping[str, Place]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The graph's inputs for one adapted layer.

    Args:
        layer: The layer's name in the Hugging Face model.
        a_RI: A as PEFT keeps it.
        b_OR: B likewise, with the scaling of the update in it.
        places: The graph's places by name.

    Raises:
        KeyError: Where the graph has no place for the layer.
        ValueError: Where it has one of another size.
    """
    found = [places[name] for name in place_names(layer)]
    if any(place.num_in != a_RI.shape[1] for place in found) or sum(place.num_out for place in found) != len(b_OR):
        sizes = " and ".join(f"{place.num_out} x {place.num_in}" for place in found)
        raise ValueError(f"{layer} is {len(b_OR)} x {a_RI.shape[1]}, in the graph {sizes}")
    start = 0
    for place in found:
        yield place.name + A_SUFFIX, np.ascontiguousarray(a_RI.T)
        yield place.name + B_SUFFIX, np.ascontiguousarray(b_OR[start : start + place.num_out].T)
        start += place.num_out


def _place_of(node: onnx.NodeProto, sizes: Mapping[str, Sequence[int]]) -> Place:
    name = node.name.rpartition("/")[0].strip("/").replace("/", ".")
    if node.op_type == "MatMul":
        return Place(name, *sizes[node.input[1]])
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    return Place(name, numbers["K"], numbers["N"])


def _with_bias(
    node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, Sequence[int]]
) -> onnx.NodeProto:
    """The node after which the layer is whole: ONNX Runtime joins a product and its bias, and must still be able to."""
    readers = [each for each in nodes if node.output[0] in each.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return node
    others = [name for name in readers[0].input if name != node.output[0]]
    return readers[0] if len(others) == 1 and len(sizes.get(others[0], ())) == 1 else node


def _add_update(place: Place, x: str, last: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes of the update; what read the layer's output now reads the sum."""
    whole, plain = last.output[0], f"{place.name}.without_adapter"
    last.output[0] = plain
    low, update = f"{place.name}.low_rank", f"{place.name}.update"
    return [
        helper.make_node("MatMul", [x, place.name + A_SUFFIX], [low], name=low),
        helper.make_node("MatMul", [low, place.name + B_SUFFIX], [update], name=update),
        helper.make_node("Add", [plain, update], [whole], name=f"{place.name}.with_adapter"),
    ]


def _add_inputs(graph: onnx.GraphProto, place: Place) -> None:
    rank = f"{place.name}.rank"
    shapes = {A_SUFFIX: (place.num_in, rank), B_SUFFIX: (rank, place.num_out)}
    for suffix, shape in shapes.items():
        # Rank 1 and not 0: products over nothing are a corner that not every runtime has right.
        zeros = np.zeros([1 if size == rank else size for size in shape], np.float32)
        graph.input.append(helper.make_tensor_value_info(place.name + suffix, TensorProto.FLOAT, shape))
        graph.initializer.append(numpy_helper.from_array(zeros, place.name + suffix))
