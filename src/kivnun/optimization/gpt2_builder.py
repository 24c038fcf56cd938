"""GPT-2 for onnxruntime-genai's model builder, which in version 0.18 does not know it.

Imported by the worker process alone; imports nothing of Kivnun. The builder's base class makes the parts of a decoder
from modules with Llama's names, so each block of GPT-2 is shown to it under those names: one `Conv1D` for queries, keys
and values becomes three linear layers, and every matrix (I, O) becomes (O, I). What GPT-2 has and the base class has
not is made here: learned positions, added to the embeddings; nothing is rotated. The graph's inputs are those of the
other architectures, and `position_ids`.

Shapes: I in, O out.
"""

# onnxruntime-genai and its builder come without type stubs.
# pyright: reportAttributeAccessIssue=false

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from onnxruntime_genai.models import builder
from torch import Tensor, nn

# What the runtime calls any decoder with these inputs. Its own type `gpt2` is of an older kind, with one cache for keys
# and values together, and finds no such input.
MODEL_TYPE = "decoder"


class Gpt2Builder(builder.Model):
    """Builds the ONNX graph of a GPT-2 model, with the signature of the builder's own classes.

    Args:
        config: The model's configuration, transformers' `GPT2Config`.
        io_dtype: Number format of activations and cache.
        onnx_dtype: Number format of the weights.
        ep: What it runs on: `cpu`, `cuda` or `dml`.
        cache_dir: Where transformers may keep files.
        extra_options: The builder's options.

    Raises:
        NotImplementedError: For cross-attention, an activation that the base class does not know, weights that are
            quantised already, or adapters.
    """

    def __init__(
        self,
        config: Any,
        io_dtype: object,
        onnx_dtype: object,
        ep: str,
        cache_dir: str,
        extra_options: dict[str, Any],
    ) -> None:
        _require_plain(config, extra_options)
        # What the base class reads by the names of other architectures.
        config.intermediate_size = config.n_inner or 4 * config.n_embd
        config.hidden_act = config.activation_function
        super().__init__(config, io_dtype, onnx_dtype, ep, cache_dir, extra_options)
        self.model_type = MODEL_TYPE
        self.layernorm_attrs["simple"] = False
        self.layernorm_attrs["epsilon"] = config.layer_norm_epsilon
        self.mlp_attrs["use_proj"], self.mlp_attrs["use_fc"] = False, True
        self.attention_scales = [_attention_scale(config, index) for index in range(self.num_layers)]

    def is_fused_rope_supported(self) -> bool:
        """Never: the attention rotates nothing, and the positions stay an input."""
        return False

    def is_packed_attn_supported(self) -> bool:
        """Never: for CUDA in fp32, 0.18 writes a graph around it that lacks the cache's outputs and does not load."""
        return False

    def make_attention_init(self, config: Any) -> None:
        """Choose the attention operator as the base class does, without a rotary embedding."""
        super().make_attention_init(config)
        self.attention_attrs["rope"] = False

    def make_model(self, input_path: str) -> None:
        """Make the whole graph.

        Args:
            input_path: The model folder.
        """
        self.make_inputs_and_outputs()
        self.weights = self.load_weights(input_path)
        body = self.weights.transformer
        self.make_preprocessing_nodes()
        self.make_embedding(body.wte.weight)
        self.make_positions(body.wpe.weight)
        for index, block in enumerate(body.h):
            # The words of the base class, by which the parent process counts the layers.
            sys.stdout.write(f"Reading layer {index}\n")
            self.attention_attrs["scale"] = self.attention_scales[index]
            self.make_layer(index, _as_decoder_layer(block))
        self.make_layernorm(self.num_layers, body.ln_f, skip=True, simple=False, location="final_norm")
        self.make_lm_head(self.weights.lm_head)
        del self.weights

    def make_positions(self, weight_PC: Tensor) -> None:
        """Add the learned vector of each position to the residual stream.

        Args:
            weight_PC: The vectors of P positions, C channels.
        """
        weight, name = "model.embed_positions.weight", "/model/embed_positions"
        gather, add = f"{name}/Gather", f"{name}/Add"
        self.make_initializer(weight_PC, weight, to=self.io_dtype)
        shape = self.make_hidden_state_shape()
        # Small beside the vocabulary, and every token reads it: it is never rounded.
        self.exclude_node_from_quantization(gather)
        self.make_gather(gather, [weight, self.input_names["position_ids"]], dtype=self.io_dtype, shape=shape, axis=0)
        self.make_add(add, [self.layernorm_attrs["root_input"], f"{gather}/output_0"], dtype=self.io_dtype, shape=shape)
        self.layernorm_attrs["root_input"] = self.layernorm_attrs["skip_input"] = f"{add}/output_0"


def create_gpt2(target: tuple[None, str, str, str, str, str], options: Sequence[str]) -> None:
    """Do for a GPT-2 folder what the builder's own `create_model` does for the architectures that it knows.

    Args:
        target: The builder's positional arguments: no name, the model folder, the folder to write, precision, execution
            provider and cache folder.
        options: The builder's `key=value` options.
    """
    _, model_folder, out_folder, precision, provider, cache_folder = target
    prepared = builder.parse_extra_options(*target, list(options))
    config, name = (prepared["hf_details"][key] for key in ("hf_config", "hf_name"))
    quantization = prepared.get("_quant_config")
    if quantization is None:
        io_dtype = builder.set_io_dtype(precision, provider, prepared)
        onnx_dtype = builder.set_onnx_dtype(precision, prepared)
    else:
        io_dtype, onnx_dtype = quantization.to_onnx_dtypes()
    Path(out_folder).mkdir(parents=True, exist_ok=True)
    made = Gpt2Builder(config, io_dtype, onnx_dtype, provider, cache_folder, prepared)
    made.make_model(model_folder)
    made.save_model(out_folder)
    made.make_genai_config(config, {}, out_folder)
    made.save_processing(name, {}, out_folder)


def _require_plain(config: Any, extra_options: dict[str, Any]) -> None:
    problems = {
        "cross-attention": config.add_cross_attention,
        "weights that are quantised already": getattr(config, "quantization_config", None) is not None,
        "adapters": "adapter_path" in extra_options,
    }
    found = [name for name, is_there in problems.items() if is_there]
    if found:
        raise NotImplementedError(f"the ONNX form of GPT-2 has no {', '.join(found)}")


def _attention_scale(config: Any, index: int) -> float:
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return scale / (index + 1) if config.scale_attn_by_inverse_layer_idx else scale


def _as_decoder_layer(block: Any) -> SimpleNamespace:
    """A block under the names that the base class reads."""
    q_proj, k_proj, v_proj = _split(block.attn.c_attn, 3)
    (o_proj,), (fc1,), (fc2,) = (_split(layer, 1) for layer in (block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj))
    return SimpleNamespace(
        input_layernorm=block.ln_1,
        self_attn=SimpleNamespace(q_proj=q_proj, k_proj=k_proj, v_proj=v_proj, o_proj=o_proj),
        post_attention_layernorm=block.ln_2,
        mlp=SimpleNamespace(fc1=fc1, fc2=fc2),
    )


def _split(layer: Any, parts: int) -> list[nn.Linear]:
    """The linear layers, each with a matrix (O, I), that a `Conv1D` holds side by side."""
    weights_OI, biases_O = layer.weight.detach().T.chunk(parts), layer.bias.detach().chunk(parts)
    return [_linear(weight_OI, bias_O) for weight_OI, bias_O in zip(weights_OI, biases_O, strict=True)]


def _linear(weight_OI: Tensor, bias_O: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight_OI.contiguous()), nn.Parameter(bias_O)
    return linear
