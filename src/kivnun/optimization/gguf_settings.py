"""What a GGUF file says of a model's shape, and which models llama.cpp computes as transformers does.

The keys are those of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A setting that
llama.cpp would leave out, such as a sliding window of a Mistral, is refused: the file would answer otherwise.
"""

from collections.abc import Mapping
from typing import cast

import gguf

from kivnun.errors import UserError

Config = Mapping[str, object]

ARCHITECTURES: Mapping[str, str] = {
    "GPT2LMHeadModel": "gpt2",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "GemmaForCausalLM": "gemma",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""llama.cpp's name for each of the architectures that are exported."""

# What llama.cpp computes whatever a config says.
_ACTIVATIONS = {
    "gpt2": ("gelu_new", "gelu_pytorch_tanh"),
    "gemma": ("gelu_pytorch_tanh", "gelu"),
    "gemma2": ("gelu_pytorch_tanh",),
    "gemma3": ("gelu_pytorch_tanh",),
}
# Every n-th layer attends to the whole context, the others to a window.
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6}
_YARN_KEYS = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}


def find_architecture(config: Config) -> str:
    """llama.cpp's name for a model's architecture.

    Args:
        config: The model's config.json.

    Raises:
        UserError: `export-failed` where it is not known here, or computed otherwise there.
    """
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else "none"
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise refused(f"the architecture {name} cannot be written as GGUF", f"remove optimization.gguf; known: {known}")
    architecture = ARCHITECTURES[name]
    for problem in _find_differences(architecture, config):
        raise refused(f"llama.cpp would compute another model: {problem}", "remove optimization.gguf from the recipe")
    return architecture


def num_blocks(config: Config) -> int:
    """The number of layers."""
    return _whole(config, "num_hidden_layers", "n_layer")


def num_heads(config: Config) -> tuple[int, int]:
    """The number of heads of queries, and of keys and values."""
    heads = _whole(config, "num_attention_heads", "n_head")
    return heads, _whole(config, "num_key_value_heads", default=heads)


def head_size(config: Config) -> int:
    """The width of a head."""
    return _whole(config, "head_dim", default=_whole(config, "hidden_size", "n_embd") // num_heads(config)[0])


def rope_settings(config: Config, layers: str = "full_attention") -> Config:
    """Rotary positions, of layers of one kind; transformers wrote them in three ways over the years."""
    given = config.get("rope_parameters")
    if isinstance(given, Mapping):
        inner = given.get(layers, given)
        return cast("Config", inner)
    scaling = config.get("rope_scaling")
    kept = cast("Config", scaling) if isinstance(scaling, Mapping) and layers == "full_attention" else {}
    theta = config.get("rope_local_base_freq" if layers == "sliding_attention" else "rope_theta", 10000.0)
    kind = kept.get("rope_type", kept.get("type", "default"))
    return {**kept, "rope_theta": theta, "rope_type": kind}


def write_settings(writer: gguf.GGUFWriter, architecture: str, config: Config) -> None:
    """Write a model's shape.

    Args:
        writer: The open file.
        architecture: llama.cpp's name for it.
        config: The model's config.json.
    """
    heads, key_heads = num_heads(config)
    width = _whole(config, "hidden_size", "n_embd")
    writer.add_context_length(_whole(config, "max_position_embeddings", "n_positions"))
    writer.add_embedding_length(width)
    writer.add_block_count(num_blocks(config))
    writer.add_feed_forward_length(_whole(config, "intermediate_size", "n_inner", default=4 * width))
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_vocab_size(_whole(config, "vocab_size"))
    if architecture == "gpt2":
        writer.add_layer_norm_eps(_number(config, "layer_norm_epsilon", 1e-5))
        return
    writer.add_layer_norm_rms_eps(_number(config, "rms_norm_eps", 1e-6))
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    _write_rope(writer, architecture, config)
    if architecture in _WINDOW_PATTERNS:
        _write_windows(writer, architecture, config)


def refused(problem: str, hint: str) -> UserError:
    """The error of a model that cannot become GGUF."""
    return UserError("export-failed", problem, hint=hint)


def _write_rope(writer: gguf.GGUFWriter, architecture: str, config: Config) -> None:
    rope = rope_settings(config)
    share = _number(rope, "partial_rotary_factor", _number(config, "partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(int(head_size(config) * share))
    writer.add_rope_freq_base(_number(rope, "rope_theta", 10000.0))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(_number(rope, "factor", 1.0))
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(original_context(config))
    if architecture == "gemma3":
        local = rope_settings(config, "sliding_attention")
        writer.add_float32("gemma3.rope.freq_base_swa", _number(local, "rope_theta", 10000.0))


def original_context(config: Config) -> int:
    """The context that a model had before its positions were stretched."""
    known = rope_settings(config).get("original_max_position_embeddings")
    return int(cast("int", known)) if known else _whole(config, "original_max_position_embeddings")


def _write_windows(writer: gguf.GGUFWriter, architecture: str, config: Config) -> None:
    writer.add_sliding_window(_whole(config, "sliding_window", default=4096))
    period = _WINDOW_PATTERNS[architecture]
    usual = [(layer + 1) % period != 0 for layer in range(num_blocks(config))]
    kinds = config.get("layer_types")
    slides = [kind == "sliding_attention" for kind in kinds] if isinstance(kinds, list) else usual
    if slides != usual:
        writer.add_sliding_window_pattern(slides)
    for name, write in (
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
    ):
        if config.get(name) is not None:
            write(_number(config, name, 0.0))


def _find_differences(architecture: str, config: Config) -> list[str]:
    """What a config asks for and llama.cpp does not do."""
    found: list[str] = []
    activation = config.get("hidden_activation") or config.get("hidden_act") or config.get("activation_function")
    if activation is not None and activation not in _ACTIVATIONS.get(architecture, ("silu",)):
        found.append(f"its activation is {activation}")
    if architecture in _WINDOW_PATTERNS:
        scale = config.get("query_pre_attn_scalar")
        if scale is not None and scale != head_size(config):
            found.append(f"query_pre_attn_scalar is {scale} and a head has {head_size(config)} numbers")
        if config.get("use_bidirectional_attention"):
            found.append("its attention looks ahead")
    else:
        found += _find_window(config)
    if architecture == "gpt2":
        unusual = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
        found += [f"{name} is {value}".lower() for name, value in unusual.items() if config.get(name) is value]
    else:
        found += _find_rope(architecture, rope_settings(config))
    return found


def _find_window(config: Config) -> list[str]:
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    is_used = config.get("use_sliding_window", True) and isinstance(window, int) and isinstance(context, int)
    is_short = is_used and cast("int", window) < cast("int", context)
    return [f"it attends to the last {window} tokens of {context}"] if is_short else []


def _find_rope(architecture: str, rope: Config) -> list[str]:
    kind = rope.get("rope_type", "default")
    known = {"llama": ("llama3", "linear", "yarn"), "phi3": ("longrope",), "gemma3": ("linear",)}
    if kind != "default" and kind not in known.get(architecture, ("linear", "yarn")):
        return [f"its positions are scaled by the rule {kind}"]
    unusual = sorted(set(rope) - _YARN_KEYS) if kind == "yarn" else []
    return [f"its positions are scaled by yarn with {', '.join(unusual)}"] if unusual else []


def _whole(config: Config, *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int):
            return value
    if default is None:
        raise refused(f"config.json has no {names[0]}", "get config.json again from where the model came")
    return default


def _number(config: Config, name: str, default: float) -> float:
    value = config.get(name)
    return float(value) if isinstance(value, int | float) else default
