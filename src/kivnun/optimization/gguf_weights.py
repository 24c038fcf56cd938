"""A model's weights under llama.cpp's names, in its order of rows, and in the number format asked for.

llama.cpp turns neighbouring pairs of a head's numbers by their position, transformers the first half against the
second: the rows of a Llama's query and key matrices change places for it (Su et al. 2021, arXiv:2104.09864, eq. 34
against the form of GPT-NeoX). Gemma's norms multiply by 1 + w there and by w here. GPT-2 keeps its matrices transposed.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kivnun.errors import UserError
from kivnun.optimization.gguf_settings import Config, head_size, num_blocks, num_heads, refused, rope_settings
from kivnun.recipe.optimization import GgufPrecision

BLOCK_WEIGHTS = 32
_TYPES: Mapping[GgufPrecision, GGMLQuantizationType] = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}
# Buffers that older folders hold: they follow from the config.
_COMPUTED = re.compile(r"\.(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$")
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file.

    Attributes:
        name: llama.cpp's name for it.
        source: Its name in the Hugging Face folder.
        file: The safetensors file that holds it.
        shape: Its shape in the file to be written.
        kind: Its number format there.
    """

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def size_bytes(self) -> int:
        """Its size in the file."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * block_bytes


def plan_tensors(folder: Path, architecture: str, config: Config, precision: GgufPrecision) -> list[GgufTensor]:
    """Every tensor that will be written; a weight of the folder that has no place in the file is refused.

    Args:
        folder: The model.
        architecture: llama.cpp's name for it.
        config: Its config.json.
        precision: Number format of the matrices.

    Raises:
        UserError: `export-failed`, or `model-invalid` where the weights cannot be read.
    """
    is_tied = bool(config.get("tie_word_embeddings", architecture.startswith(("gemma", "gpt2"))))
    model = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(model, num_blocks(config))
    planned: list[GgufTensor] = []
    homeless: list[str] = []
    for source, (file, shape) in _find_weights(folder).items():
        if _COMPUTED.search(source) or (is_tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            homeless.append(source)
            continue
        stored = shape[::-1] if architecture == "gpt2" and _CONV1D.search(source) else shape
        planned.append(GgufTensor(name, source, file, stored, _choose_type(name, stored, precision, is_tied=is_tied)))
    if homeless:
        raise UserError(
            "export-failed",
            f"llama.cpp's {architecture} has no place for {len(homeless)} weight(s) of {folder}",
            details=homeless[:5],
            hint="remove optimization.gguf from the recipe",
        )
    _require_whole(planned, num_blocks(config), folder)
    return planned


def encode_tensor(tensor: GgufTensor, architecture: str, config: Config) -> NDArray[np.generic]:
    """A tensor as it stands in the file.

    Args:
        tensor: The tensor.
        architecture: llama.cpp's name for the model's.
        config: The model's config.json.

    Raises:
        UserError: `export-failed` for values that the number format cannot hold; `model-invalid` where they cannot be
            read.
    """
    values = _arrange(_read_weight(tensor.file, tensor.source), tensor.source, architecture, config)
    with np.errstate(over="ignore"):
        encoded = quants.quantize(values, tensor.kind)
    # Blocks hold their scale as float16, which may overflow as float16 itself does.
    if not np.isfinite(quants.dequantize(encoded, tensor.kind)).all():
        raise refused(
            f"{tensor.source} holds values that {tensor.kind.name} cannot hold",
            "set optimization.gguf to f32, or train with a lower learning rate if the values are not finite",
        )
    return encoded


def extra_tensors(architecture: str, config: Config) -> dict[str, NDArray[np.float32]]:
    """Factors of the rotary positions, which transformers computes from the config and llama.cpp reads.

    Args:
        architecture: llama.cpp's name for the model's.
        config: The model's config.json.
    """
    rope = rope_settings(config)
    if architecture == "llama" and rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": _llama3_factors(rope, head_size(config))}
    if architecture == "phi3" and rope.get("rope_type") == "longrope":
        given = {"rope_factors_long.weight": rope["long_factor"], "rope_factors_short.weight": rope["short_factor"]}
        return {name: np.array(cast("Sequence[float]", each), np.float32) for name, each in given.items()}
    return {}


def permute_heads(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix: a head's halves become neighbouring pairs.

    Args:
        values: The matrix or bias, head after head.
        heads: How many heads it holds.
    """
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return split.swapaxes(1, 2).reshape(values.shape)


def _find_weights(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                found |= {name: (file, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _unreadable(file, error) from error
    if not found:
        raise UserError("model-invalid", f"{folder} holds no *.safetensors", hint="give the folder of a saved model")
    return found


def _read_weight(file: Path, name: str) -> NDArray[np.float32]:
    try:
        with safe_open(file, "pt") as opened:
            return opened.get_tensor(name).to(torch.float32).numpy()
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> UserError:
    hint = "get the model again from where it came, or run the recipe again"
    return UserError("model-invalid", f"{file} cannot be read: {error}", hint=hint)


def _arrange(values: NDArray[np.float32], source: str, architecture: str, config: Config) -> NDArray[np.float32]:
    if architecture == "llama" and re.search(r"\.[qk]_proj\.", source):
        return permute_heads(values, num_heads(config)[".k_proj." in source])
    if architecture.startswith("gemma") and source.endswith("norm.weight"):
        return values + np.float32(1)
    if architecture == "gpt2" and _CONV1D.search(source):
        return np.ascontiguousarray(values.T)
    return values


def _choose_type(name: str, shape: Sequence[int], precision: GgufPrecision, *, is_tied: bool) -> GGMLQuantizationType:
    """Matrices take the format asked for; of 4-bit files the last one keeps 8, since every token hangs on it."""
    if len(shape) < 2 or name.startswith("position_embd"):
        return GGMLQuantizationType.F32
    kind = _TYPES[precision]
    if kind == GGMLQuantizationType.Q4_0 and name == ("token_embd.weight" if is_tied else "output.weight"):
        kind = GGMLQuantizationType.Q8_0
    is_blocked = kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0)
    return GGMLQuantizationType.F16 if is_blocked and shape[-1] % BLOCK_WEIGHTS else kind


def _require_whole(planned: Sequence[GgufTensor], blocks: int, folder: Path) -> None:
    """Refuse a folder that lacks weights of a layer: llama.cpp would not load the file."""
    per_block: list[set[str]] = [set() for _ in range(blocks)]
    for tensor in planned:
        if tensor.name.startswith("blk."):
            _, number, rest = tensor.name.split(".", 2)
            per_block[int(number)].add(rest)
    everything = set().union(*per_block)
    lacking = [f"blk.{number}.{name}" for number, kept in enumerate(per_block) for name in sorted(everything - kept)]
    if lacking or not everything:
        raise UserError(
            "model-invalid",
            f"{folder} lacks weights of {blocks} layers",
            details=lacking[:5],
            hint="use the whole model folder, with every *.safetensors file",
        )


def _llama3_factors(rope: Config, width: int) -> NDArray[np.float32]:
    """By how much each frequency of Llama 3.1 is lowered (transformers, `_compute_llama3_parameters`)."""
    return np.array(list(_each_llama3_factor(rope, width)), np.float32)


def _each_llama3_factor(rope: Config, width: int) -> Iterator[float]:
    base, factor, low, high, context = (
        float(cast("float", rope[name]))
        for name in (
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    for place in range(0, width, 2):
        wavelength = 2 * math.pi * base ** (place / width)
        if wavelength < context / high:
            yield 1.0
        elif wavelength > context / low:
            yield factor
        else:
            smooth = (context / wavelength - low) / (high - low)
            yield 1 / ((1 - smooth) / factor + smooth)
