"""The process that builds one ONNX folder; `kivnun.optimization.onnx` runs this file by its path and never imports it.

It imports nothing of Kivnun, so that it starts without the package being installed. Arguments: model folder, folder to
write, cache folder, precision, execution provider, then the builder's `key=value` options.

The builder of onnxruntime-genai 0.18 reads some configs incompletely, and says nothing; `complete_config` and the
classes below mend that. Its quantiser fails where a row has an odd number of blocks, which `make_rounded_node`
mends. It also ends well on graphs that do not load and on weights that are NaN; so what it wrote is read again here.
"""

# onnxruntime-genai's names come from a compiled module without type stubs, and its builder from one without types.
# pyright: reportAttributeAccessIssue=false

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai as og
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.neural_compressor import weight_only
from onnxruntime_genai.models import builder

Target = tuple[None, str, str, str, str, str]
GPT2 = "GPT2LMHeadModel"
FLOATS: dict[int, type[np.floating[Any]]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
}
QUANTIZER_NODE = weight_only.make_matmul_weight_only_node
# A graph for another target may hold an operator that a CPU does not compute; then it cannot be loaded here.
NO_KERNEL = "Could not find an implementation"


class LlamaModel(builder.LlamaModel):
    """The builder's class knows `llama3` positions alone, and leaves every other kind out."""

    def make_rope_init(self, config: Any) -> None:
        """Read how the rotary positions are scaled."""
        if config.rope_parameters["rope_type"] == "llama3":
            super().make_rope_init(config)
        else:
            builder.Model.make_rope_init(self, config)


class Gemma3Model(builder.Gemma3Model):
    """The builder's class scales the positions of local layers as those of global ones."""

    def make_rotary_embedding_multi_cache(self) -> None:
        """Make the tables of both kinds of layers: of global ones first."""
        self.tables_made = 0
        super().make_rotary_embedding_multi_cache()

    def make_rotary_embedding_caches_from_scratch(self) -> Any:
        """One table; local layers are never scaled."""
        if self.tables_made:
            self.rope_attrs["rescale_factors"] = 1
        self.tables_made += 1
        return super().make_rotary_embedding_caches_from_scratch()


class OLMoModel(builder.OLMoModel):
    """The builder's class normalises as Llama does, without taking off the mean."""

    def make_layernorm(self, layer_id: int, layernorm: Any, *, skip: bool, simple: bool, location: str) -> None:
        """Make one normalisation, never the simple one."""
        del simple
        super().make_layernorm(layer_id, layernorm, skip, False, location)  # noqa: FBT003 - the builder's signature


def complete_config(config: Any) -> None:
    """Say what the builder asks a config for and transformers does not write there.

    Args:
        config: Of transformers; changed in place.
    """
    decoder = config.get_text_config()
    if getattr(decoder, "layer_types", None) is None and getattr(decoder, "sliding_window", None):
        # Such as Mistral and Phi-3: every layer has the window. Without names the builder gives it to none.
        decoder.layer_types = ["sliding_attention"] * decoder.num_hidden_layers
    if not hasattr(decoder, "rms_norm_eps"):
        # The builder knows no other name, and takes 1e-6 without it.
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_eps")
        decoder.rms_norm_eps = next((getattr(decoder, name) for name in names if hasattr(decoder, name)), 1e-5)
    positions = getattr(decoder, "rope_parameters", None) or {}
    if "rope_type" in positions:
        # The builder reads the older name of LongRoPE's.
        positions.setdefault("type", positions["rope_type"])
    if decoder.model_type == "gemma3_text":
        decoder.rope_parameters = dict(positions["full_attention"])
        decoder.rope_theta = positions["full_attention"]["rope_theta"]
        decoder.rope_local_base_freq = positions["sliding_attention"]["rope_theta"]


def make_rounded_node(
    *, node: onnx.NodeProto, weight_shape: tuple[int, int], num_bits: int, k_blocks: int, zero_point: Any, **rest: Any
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """The quantiser's own function, but each row's zero points of 4 bits fill whole bytes (MatMulNBits, input 3).

    Args:
        node: The product to replace.
        weight_shape: Inputs and outputs.
        num_bits: Of a weight.
        k_blocks: Blocks in a row.
        zero_point: Of each block, row by row; None for none.
        rest: What else the quantiser gives.
    """
    fills_bytes = num_bits == 8 or k_blocks % 2 == 0
    given = zero_point if fills_bytes else None
    made, tensors = QUANTIZER_NODE(
        node=node, weight_shape=weight_shape, num_bits=num_bits, k_blocks=k_blocks, zero_point=given, **rest
    )
    if zero_point is not None and not fills_bytes:
        rows = np.pad(zero_point.reshape(-1, k_blocks).astype(np.uint8), ((0, 0), (0, 1)))
        packed = numpy_helper.from_array(rows[:, ::2] | rows[:, 1::2] << 4, f"{node.input[1]}_zp")
        made.input.append(packed.name)
        tensors.append(packed)
    return made, tensors


def build(target: Target, options: list[str]) -> None:
    """Let the builder write a folder.

    Args:
        target: The builder's positional arguments: no name, the model folder, the folder to write, precision, execution
            provider and cache folder.
        options: The builder's `key=value` options.
    """
    builder.LlamaModel, builder.Gemma3Model, builder.OLMoModel = LlamaModel, Gemma3Model, OLMoModel
    weight_only.make_matmul_weight_only_node = make_rounded_node
    if GPT2 in (_read_json(Path(str(target[1])) / "config.json").get("architectures") or ()):
        _import_neighbour("gpt2_builder").create_gpt2(target, options)
        return
    prepared = builder.parse_extra_options(*target, options)
    complete_config(prepared["hf_details"]["hf_config"])
    builder.create_model(*target, **prepared)


def check(folder: Path, provider: str) -> None:
    """Read what was written: every weight, the graph as the runtime sees it, and on a CPU the logits of one token.

    Args:
        folder: The written folder.
        provider: The execution provider that it is for.

    Raises:
        ValueError: For numbers that are not finite, outputs that are missing, or a config for another provider.
        RuntimeError: For a graph that does not load.
    """
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    _check_config(graph, _read_json(folder / "genai_config.json")["model"], provider)
    for name, values in _float_weights(graph, folder):
        # The extremes are NaN or infinite where any value is, and take no memory.
        if values.size and not np.isfinite([values.min(), values.max()]).all():
            raise ValueError(f"the exported weights {name} are NaN or infinite")
    og.disable_telemetry_events()
    config = og.Config(str(folder))
    if provider == "cpu":
        _check_token(og.Model(config))
        return
    config.clear_providers()
    session = {"graph_optimization_level": "ORT_DISABLE_ALL"}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    try:
        og.Model(config)
    except RuntimeError as error:
        if NO_KERNEL not in str(error):
            raise


def _check_config(graph: onnx.GraphProto, model: dict[str, Any], provider: str) -> None:
    providers = [name for entry in model["decoder"]["session_options"]["provider_options"] for name in entry]
    if providers != ([] if provider == "cpu" else [provider]):
        raise ValueError(f"genai_config.json names the providers {providers}, not {provider}")
    written = {output.name: output for output in graph.output}
    if "logits" not in written:
        raise ValueError(f"the exported graph has no logits, only {', '.join(written)}")
    vocabulary = written["logits"].type.tensor_type.shape.dim[-1].dim_value
    if vocabulary != model["vocab_size"]:
        raise ValueError(f"the exported graph has {vocabulary} logits, genai_config.json names {model['vocab_size']}")


def _float_weights(graph: onnx.GraphProto, folder: Path) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    for tensor in graph.initializer:
        if tensor.data_type not in FLOATS:
            continue
        if not tensor.external_data:
            yield tensor.name, numpy_helper.to_array(tensor)
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        kind, offset = np.dtype(FLOATS[tensor.data_type]), int(place.get("offset", 0))
        count = int(np.prod(list(tensor.dims)))
        if (folder / place["location"]).stat().st_size < offset + count * kind.itemsize:
            raise ValueError(f"{place['location']} ends before the weights {tensor.name}")
        if count:
            yield tensor.name, np.memmap(folder / place["location"], kind, "r", offset, (count,))


def _check_token(model: og.Model) -> None:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=2)
    steps = og.Generator(model, parameters)
    steps.append_tokens(np.array([0], dtype=np.int32))
    if not np.isfinite(steps.get_logits()).all():
        raise ValueError("the exported model's logits are NaN or infinite")


def _end_with_parent() -> None:
    """Leave when the parent dies, even by kill -9: its end of the pipe to our standard input then closes."""
    # The bare descriptor: a thread that waits in a buffered reader breaks the interpreter's own exit.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _import_neighbour(name: str) -> Any:
    """A module beside this file, whose folder is not on the path: its `onnx.py` would hide the onnx package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    model_folder, out_folder, cache_folder, precision, provider, *options = sys.argv[1:]
    build((None, model_folder, out_folder, precision, provider, cache_folder), options)
    check(Path(out_folder), provider)
