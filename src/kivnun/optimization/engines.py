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
from kivnun.models.load import load_gguf, load_model, load_tokenizer

WEIGHTS = ("model.onnx", "*.gguf", "*.safetensors")
"""A file of one of these names makes a folder a form of a model."""


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


def runs_here(target: str) -> bool:
    """Whether this machine's onnxruntime-genai computes on a target."""
    available = {"cpu": lambda: True, "cuda": og.is_cuda_available, "directml": og.is_dml_available}
    return bool(available[target]())


def require_target(name: str, target: str) -> None:
    """Refuse a form that this machine cannot run.

    Raises:
        UserError: `stage-unsupported`.
    """
    if not runs_here(target):
        package = {"cuda": "onnxruntime-genai-cuda", "directml": "onnxruntime-genai-directml"}[target]
        raise UserError(
            "stage-unsupported",
            f"{name} runs on {target}, which this machine's onnxruntime-genai does not have",
            hint=f"verify it on a machine with {target} and the package {package}",
        )
