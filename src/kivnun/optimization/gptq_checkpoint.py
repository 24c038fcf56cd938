"""A Hugging Face folder in GPTQ's layout, which onnxruntime-genai's builder reads and copies into the graph unchanged.

Layout, as the builder's `loaders/gptq.py` unpacks it (O outputs, I inputs, G groups): `qweight` int32 (I / 8, O), eight
codes of consecutive inputs in a number, the first in the lowest bits; `qzeros` int32 (G, O / 8), zero points less one,
likewise along the outputs; `scales` (G, O); `g_idx` int32 (I), each input's group.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kivnun.optimization.rounding import BITS, NUM_LEVELS, Rounded

CODES_PER_NUMBER = 32 // BITS


def write_checkpoint(
    model_folder: Path, out_folder: Path, weights: Mapping[str, Tensor], rounded: Mapping[str, Rounded]
) -> None:
    """Write config, weights and tokenizer.

    Args:
        model_folder: The model that was rounded; all its files but its weights are copied.
        out_folder: An empty folder.
        weights: All tensors of the model by name; those of rounded matrices are left out.
        rounded: The rounded matrices by the names of their modules.
    """
    group_sizes = {each.codes.shape[1] // each.grid.scales.shape[1] for each in rounded.values()}
    if len(group_sizes) != 1:
        raise ValueError(f"one group size is needed, got {sorted(group_sizes)}")
    for path in sorted(model_folder.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, out_folder / path.name)
    config = json.loads((model_folder / "config.json").read_bytes())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": BITS,
        "group_size": group_sizes.pop(),
        "desc_act": False,
        "sym": False,
    }
    (out_folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in weights.items() if name[: -len(".weight")] not in rounded}
    for name, each in rounded.items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in pack(each).items()}
    save_file(tensors, out_folder / "model.safetensors", metadata={"format": "pt"})


def pack(rounded: Rounded) -> dict[str, Tensor]:
    """A rounded matrix as GPTQ's four tensors.

    Args:
        rounded: Its numbers of inputs and of outputs are multiples of eight.
    """
    num_inputs, num_groups = rounded.codes.shape[1], rounded.grid.scales.shape[1]
    # The layout's zero point is one less than the real one, in four bits: 0 is written as 15.
    zeros_GO = (rounded.grid.zeros.T.to(torch.int64) - 1) & NUM_LEVELS
    return {
        "qweight": _pack_last(rounded.codes).T.contiguous(),
        "qzeros": _pack_last(zeros_GO),
        "scales": rounded.grid.scales.T.contiguous(),
        "g_idx": torch.arange(num_inputs, dtype=torch.int32) // (num_inputs // num_groups),
    }


def _pack_last(codes: Tensor) -> Tensor:
    """Eight whole numbers of the last dimension in one of 32 bits."""
    shifts = torch.arange(0, 32, BITS)
    packed = (codes.to(torch.int64).unflatten(-1, (-1, CODES_PER_NUMBER)) << shifts).sum(-1)
    # The highest bit of 32 is the sign in int32.
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
