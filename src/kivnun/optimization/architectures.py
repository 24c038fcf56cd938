"""What the ONNX builder can make of a model, read from its config alone: so it is known before anything is trained.

onnxruntime-genai 0.18's builder refuses some models only after minutes, and of others it leaves a part out without a
word. What is said here was found by comparing the logits of its graphs with torch's, far beyond the windows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.models.context import steady_tokens
from kivnun.optimization.decoder_inputs import ARCHITECTURES as CALIBRATED_ARCHITECTURES
from kivnun.optimization.forms import Form, plan_forms
from kivnun.recipe.optimization import OptimizationSection, Target

Config = Mapping[str, object]

# A test reads them anew from the installed builder.
ARCHITECTURES = frozenset(
    {
        "ChatGLMForConditionalGeneration",
        "ChatGLMModel",
        "Ernie4_5ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "GemmaForCausalLM",
        "GptOssForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "InternLM2ForCausalLM",
        "Lfm2AudioForConditionalGeneration",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "Lfm2VlForConditionalGeneration",
        "LlamaForCausalLM",
        "Mistral3ForConditionalGeneration",
        "MistralForCausalLM",
        "NemotronForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "Phi3SmallForCausalLM",
        "Phi3VForCausalLM",
        "Phi4MMForCausalLM",
        "PhiForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3ForCausalLM",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "SmolLM3ForCausalLM",
        "VideoChatFlashQwenForCausalLM",
        "WhisperForConditionalGeneration",
    }
)
"""What the builder knows."""

OWN_ARCHITECTURES = frozenset({"GPT2LMHeadModel"})
"""What our worker adds to it."""

GPT2_ACTIVATIONS = frozenset({"gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu", "swish"})
"""What the builder computes in feed-forward layers without a gate."""

EXACT_WINDOWS = frozenset({"gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types whose sliding windows the graph computes as torch does."""

# ONNX Runtime's attention with rotary positions on a CPU takes heads of such sizes.
HEAD_MULTIPLE = 16

WRONG_ARCHITECTURES: Mapping[str, str] = {
    "SmolLM3ForCausalLM": "the ONNX builder gives rotary positions to the layers of SmolLM3 that have none",
}
"""What the builder names and cannot make."""

# Those that its graphs compute as torch does; the builder's `yarn` is another one than that of transformers.
ROPE_TYPES = frozenset({"default", "linear"})
OTHER_ROPE_TYPES: Mapping[str, frozenset[str]] = {
    "GptOssForCausalLM": frozenset({"yarn"}),
    "HunYuanDenseV1ForCausalLM": frozenset({"dynamic"}),
    "LlamaForCausalLM": frozenset({"llama3"}),
    "Mistral3ForConditionalGeneration": frozenset({"yarn"}),
    "Phi3ForCausalLM": frozenset({"longrope", "su"}),
    "Phi4MMForCausalLM": frozenset({"longrope", "su"}),
    "PhiMoEForCausalLM": frozenset({"longrope", "su"}),
}


@dataclass(frozen=True)
class ContextLimit:
    """An exported form answers within fewer tokens than its model.

    Attributes:
        tokens: Most tokens of prompt and answer together.
        reason: Why, as a sentence without its stop.
    """

    tokens: int
    reason: str


def exportable_forms(model_folder: Path, settings: OptimizationSection) -> tuple[Form, ...]:
    """The forms that a recipe asks for; refuses, from the config alone and before any training, what cannot be built.

    Of the candidates of precision `auto`, those that cannot be built are left out.

    Args:
        model_folder: Holds config.json.
        settings: The recipe's `optimization` section.

    Raises:
        UserError: `export-failed`, or `model-invalid` for a config that is not JSON.
    """
    config = read_config(model_folder)
    forms = plan_forms(settings, matrix_widths(config))
    require_exportable(config, forms[0].target)
    possible = tuple(form for form in forms if not form.needs_calibration or _is_calibrated(config))
    if not possible:
        raise UserError(
            "export-failed",
            f"gptq and awq do not know the layers of the architecture {_architecture(config)}",
            hint="set optimization.algorithm to k_quant, which looks at no rows",
        )
    return possible


def read_config(model_folder: Path) -> Config:
    """A model's config; that of its text decoder is laid over it where there is one.

    Args:
        model_folder: Holds config.json.

    Raises:
        UserError: `model-invalid` for one that is not a JSON object.
    """
    path = model_folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _invalid_config(path, str(error)) from error
    if not isinstance(config, dict):
        raise _invalid_config(path, f"expected an object, got {type(config).__name__}")
    text = config.get("text_config")
    decoder = {**config, **text, "architectures": config.get("architectures")} if isinstance(text, dict) else config
    return cast("Config", decoder)


def require_exportable(config: Config, target: Target) -> None:
    """Refuse what the builder does not know, and what it or the target would leave out without a word.

    Args:
        config: From `read_config`.
        target: What the form will run on.

    Raises:
        UserError: `export-failed`.
    """
    architecture = _architecture(config)
    # A config without a name gets one when the model is saved.
    if architecture is not None and architecture not in ARCHITECTURES | OWN_ARCHITECTURES:
        raise _refused(f"the ONNX builder does not know the architecture {architecture}")
    if architecture == "GPT2LMHeadModel" and config.get("activation_function", "gelu_new") not in GPT2_ACTIVATIONS:
        raise _refused(f"the ONNX builder does not know the activation {config.get('activation_function')}")
    if architecture == "GPT2LMHeadModel" and config.get("add_cross_attention"):
        raise _refused("the model attends to another text as well (add_cross_attention), which its ONNX form would not")
    wrong = WRONG_ARCHITECTURES.get(architecture or "")
    if wrong is not None:
        raise _refused(wrong)
    unknown = _rope_types(config) - ROPE_TYPES - OTHER_ROPE_TYPES.get(architecture or "", frozenset())
    if unknown:
        raise _refused(f"the ONNX builder does not make this model's rotary positions: {', '.join(sorted(unknown))}")
    if config.get("use_bidirectional_attention"):
        raise _refused("the model also attends to later tokens, which its ONNX form would not")
    head_size = _head_size(config)
    if target == "cpu" and architecture not in OWN_ARCHITECTURES and head_size and head_size % HEAD_MULTIPLE:
        raise _refused(f"attention heads of {head_size} numbers; on CPUs they must be multiples of {HEAD_MULTIPLE}")
    if target == "directml" and config.get("attn_logit_softcapping"):
        raise _refused("DirectML leaves out the cap on this model's attention scores (attn_logit_softcapping)")


def context_limit(config: Config, target: Target) -> ContextLimit | None:
    """How far a form answers like its model, where that is less than the model's context.

    Args:
        config: From `read_config`.
        target: What the form will run on.
    """
    limits = [limit for limit in (_position_limit(config), _window_limit(config, target)) if limit is not None]
    return min(limits, key=lambda limit: limit.tokens, default=None)


def _position_limit(config: Config) -> ContextLimit | None:
    tokens, context = steady_tokens(config), config.get("max_position_embeddings")
    if tokens is None or not isinstance(context, int) or tokens >= context:
        return None
    return ContextLimit(tokens, f"beyond {tokens} tokens the model's positions change for all rows of a batch")


def _window_limit(config: Config, target: Target) -> ContextLimit | None:
    """Up to its sliding window a model attends to every token, so a graph without windows is right up to there."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    # Qwen's configs name a window that is not used unless this says so.
    is_used = config.get("use_sliding_window", not str(config.get("model_type")).startswith("qwen"))
    if not is_used or not isinstance(window, int) or not isinstance(context, int) or window >= context:
        return None
    if target == "directml":
        return ContextLimit(window, f"DirectML does not compute the model's sliding window of {window} tokens")
    if config.get("model_type") in EXACT_WINDOWS:
        return None
    reason = f"the ONNX graph of a {config.get('model_type')} model may lack its sliding window of {window} tokens"
    return ContextLimit(window, reason)


def matrix_widths(config: Config) -> dict[str, int]:
    """Names and sizes of the inner dimensions of a model's matrices, each of which a block must divide.

    Args:
        config: From `read_config`.
    """
    hidden, heads = _first(config, "hidden_size", "n_embd"), _first(config, "num_attention_heads", "n_head")
    widths = {"hidden_size": hidden, "intermediate_size": _first(config, "intermediate_size", "n_inner")}
    if "n_embd" in config and hidden:
        widths["intermediate_size"] = widths["intermediate_size"] or 4 * hidden
    head_size = _head_size(config)
    # The matrix after the attention reads the heads side by side; in Gemma and Qwen3 that is not the hidden size.
    if heads and head_size and heads * head_size != hidden:
        widths["num_attention_heads * head_dim"] = heads * head_size
    return {name: width for name, width in widths.items() if width}


def num_layers(config: Config) -> int | None:
    """Number of decoder layers; None where the config does not say.

    Args:
        config: From `read_config`.
    """
    return _first(config, "num_hidden_layers", "n_layer")


def _is_calibrated(config: Config) -> bool:
    architecture = _architecture(config)
    return architecture is None or architecture in CALIBRATED_ARCHITECTURES


def _architecture(config: Config) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _head_size(config: Config) -> int | None:
    given, hidden, heads = (_first(config, name) for name in ("head_dim", "hidden_size", "num_attention_heads"))
    return given or (hidden // heads if hidden and heads else None)


def _rope_types(config: Config) -> set[str]:
    """Kinds of rotary positions; models with local and global layers have one for each kind of layer."""
    found = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(found, dict):
        return set()
    settings = cast("dict[str, object]", found)
    parts = [part for part in settings.values() if isinstance(part, dict)] or [settings]
    given = (part.get("rope_type") or part.get("type") for part in parts)
    return {str(name) for name in given if name}


def _first(config: Config, *names: str) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def _refused(problem: str) -> UserError:
    return UserError(
        "export-failed",
        problem,
        hint="remove the optimization section, or take a base model of another family, such as Llama or Qwen",
    )


def _invalid_config(path: Path, reason: str) -> UserError:
    return UserError("model-invalid", f"{path} cannot be read: {reason}", hint="get the model again from where it came")
