"""Where and in which number format a run computes, and whether its layers are fused and compiled."""

import shutil
from pathlib import Path

import torch
from torch import nn

from kivnun.errors import UserError
from kivnun.methods.fused import fuse_model
from kivnun.models.decoder import FusedDecoder, FusedLayer
from kivnun.models.kernels import EAGER, compiled_kernels
from kivnun.recipe.training import TrainingSection
from kivnun.training.loss import choose_compiled_loss
from kivnun.training.process_memory import free_memory_bytes

# Below this many tokens times parameters, compiling takes longer than it saves on a CPU.
COMPILE_PAYS_WORK = 1e13
# Most of the free memory that kept hidden states may take.
CACHE_MEMORY_SHARE = 0.25


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
    """Fuse the decoder layers where they are of a known kind, and compile them where the recipe says so or it pays.

    Args:
        model: A model prepared for training, on its device, with packed attention switched on.
        settings: The recipe's `training` section.
        num_tokens: Tokens of the whole training.

    Returns:
        Whether it is compiled.

    Raises:
        UserError: `recipe-invalid` where hidden states cannot be kept as the recipe asks.
    """
    decoder = fuse_model(model)
    wanted = settings.compile
    if wanted == "auto":
        has_compiler = torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "c++")))
        work = num_tokens * sum(parameter.numel() for parameter in model.parameters())
        wanted = has_compiler and work >= COMPILE_PAYS_WORK
    choose_compiled_loss(wanted=wanted)
    if decoder is not None:
        decoder.kernels = compiled_kernels() if wanted else EAGER
    _keep_lower_states(decoder, settings)
    if wanted:
        for layer in _whole_layers(model, decoder):
            layer.compile(dynamic=True)
    return wanted


def _keep_lower_states(decoder: FusedDecoder | None, settings: TrainingSection) -> None:
    """Keep what frozen lower layers make of each row, where the recipe says so or rows come again.

    Raises:
        UserError: `recipe-invalid` where the recipe asks for it and nothing below the trained weights is frozen.
    """
    wanted = settings.epochs > 1 if settings.cache_hidden_states == "auto" else settings.cache_hidden_states
    if not wanted:
        return
    limit = int(free_memory_bytes(torch.device("cpu")) * CACHE_MEMORY_SHARE)
    if not (decoder is not None and decoder.keep_lower_states(limit)) and settings.cache_hidden_states is True:
        raise UserError(
            "recipe-invalid",
            "training.cache_hidden_states: no frozen layers lie below the trained ones, so there is nothing to keep",
            hint="use method: {kind: partial, last_layers: 2}, or set training.cache_hidden_states: auto",
        )


def _whole_layers(model: nn.Module, decoder: FusedDecoder | None) -> list[nn.Module]:
    """The layers that run as transformers wrote them."""
    if decoder is None:
        return list(decoder_layers(model))
    return [layer for layer in decoder.layers if not isinstance(layer, FusedLayer)]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of a model's decoder layers: its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
