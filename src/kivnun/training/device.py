"""Where and in which number format a run computes, and whether it is compiled."""

import shutil
from pathlib import Path

import torch
from torch import nn

from kivnun.recipe.training import TrainingSection

# Below this many tokens, compiling a model takes longer than it saves on a CPU.
COMPILE_PAYS_TOKENS = 1_500_000


def pick_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format of the computation; `auto` takes bf16 where the machine multiplies matrices in it natively."""
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text("utf-8").split()) if cpuinfo.is_file() else set()
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def compile_layers(model: nn.Module, settings: TrainingSection, *, num_tokens: int) -> bool:
    """Compile the decoder layers in place where the recipe says so, or where it pays; returns whether it was done."""
    wanted = settings.compile
    if wanted == "auto":
        has_compiler = torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "c++")))
        wanted = has_compiler and num_tokens >= COMPILE_PAYS_TOKENS
    if wanted:
        for layer in decoder_layers(model):
            layer.compile(dynamic=True)
    return bool(wanted)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a model's decoder layers: its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
