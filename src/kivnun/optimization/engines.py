"""The engine of a form's folder, found by what lies in it; the same one asks while optimizing and while verifying."""

# onnxruntime-genai's names come from a compiled module without type stubs.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path

import onnxruntime_genai as og
import torch

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.generation.engine import Engine
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.models.load import load_gguf, load_model, load_tokenizer, model_config_value

WEIGHTS = ("model.onnx", "*.gguf", "*.safetensors")
"""A file of one of these names makes a folder a form of a model."""
UNREADABLE_GGUF = ("gemma",)
"""Model types whose GGUF files transformers does not read; llama.cpp does."""


def is_form(folder: Path) -> bool:
    """Whether a folder holds a model's weights."""
    return any(any(folder.glob(name)) for name in WEIGHTS)


def open_form(folder: Path, *, name: str, num_threads: int | None = None) -> Engine:
    """What answers from a form's folder.

    Args:
        folder: A Hugging Face folder, an ONNX folder, or a folder with a GGUF file, whose weights are then computed in
            torch with the values that they are rounded to.
        name: Shown in errors.
        num_threads: Cores that one token of an ONNX form may use; None for all.

    Raises:
        UserError: `model-invalid` where it does not load.
    """
    if (folder / "model.onnx").is_file():
        return OnnxEngine(folder, name=name, num_threads=num_threads)
    end_id = Encoder(load_tokenizer(folder)).end_id
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        return TorchEngine(load_gguf(gguf[0]), pad_id=end_id, name=name)
    return TorchEngine(load_model(folder, dtype=torch.float32), pad_id=end_id, name=name)


def why_not_here(folder: Path, target: str) -> str | None:
    """Why this machine cannot ask a form; None where it can.

    Args:
        folder: The form's folder.
        target: What the form runs on.
    """
    if not runs_here(target):
        return f"runs on {target}, which this machine's onnxruntime-genai does not have"
    if any(folder.glob("*.gguf")) and model_config_value(folder, "model_type") in UNREADABLE_GGUF:
        return "is a GGUF file of a kind that transformers does not read"
    return None


def runs_here(target: str) -> bool:
    """Whether this machine's onnxruntime-genai computes on a target."""
    available = {"cpu": lambda: True, "cuda": og.is_cuda_available, "directml": og.is_dml_available}
    return bool(available[target]())


def cannot_run(name: str, folder: Path, target: str) -> UserError:
    """The error of a form that this machine cannot ask.

    Args:
        name: The form.
        folder: Its folder.
        target: What it runs on.
    """
    packages = {"cuda": "onnxruntime-genai-cuda", "directml": "onnxruntime-genai-directml"}
    hint = "serve it with llama.cpp's server, and ask that with kivnun verify --endpoint"
    if target in packages:
        hint = f"verify it on a machine with {target} and the package {packages[target]}"
    return UserError("stage-unsupported", f"{name} {why_not_here(folder, target)}", hint=hint)
