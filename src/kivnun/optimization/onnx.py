"""Export a model folder to an ONNX folder that onnxruntime-genai runs on a CPU: the same model in fp32, or int4.

The model builder runs in a process of its own: it prints without end, changes `sys.path`, sets global state in
transformers and holds several copies of the weights; so its output is caught whole, its memory is given back when it
ends, and a crash inside it is an error here and not the end of the run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.optimization.forms import Form, plan_forms
from kivnun.optimization.measure import folder_size_bytes
from kivnun.recipe.optimization import OptimizationSection

NEEDED_FILES = ("model.onnx", "genai_config.json", "tokenizer.json", "tokenizer_config.json")
WORKER = Path(__file__).with_name("onnx_worker.py")
# What onnxruntime-genai's builder knows in version 0.18; a test reads them anew from the installed one.
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
# Shown of a failed build: the end of its output, where the exception is.
NUM_DETAIL_LINES = 15
FULL_DISK_BYTES = 64 * 1024
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class ExportResult:
    """An exported folder.

    Attributes:
        folder: Holds model.onnx, its data, genai_config.json and the tokenizer; can be moved.
        form: What was built.
        size_bytes: Of all files.
        build_seconds: Wall time of the build and its check.
    """

    folder: Path
    form: Form
    size_bytes: int
    build_seconds: float


def export_onnx(
    model_folder: Path, out_folder: Path, form: Form, *, calibration: Sequence[Sequence[int]] = ()
) -> ExportResult:
    """Build an ONNX folder and check that it loads and runs.

    Args:
        model_folder: A Hugging Face folder with config, safetensors and tokenizer.
        out_folder: Appears only when everything is checked; must not exist, or be empty.
        form: The form to build.
        calibration: Token ids of training rows, for the algorithms that look at them.

    Raises:
        UserError: export-failed, model-missing, model-invalid, disk-full.
    """
    _require_exportable(model_folder, out_folder)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f".{out_folder.name}.", dir=out_folder.parent) as work_text:
        work = Path(work_text)
        built = work / "onnx"
        _run_builder(model_folder, built, work / "cache", [form.precision, *builder_options(form)])
        require_onnx_files(built)
        try:
            built.replace(out_folder)
        except OSError as error:
            raise _failed(model_folder, [f"cannot move the result to {out_folder}: {error}"]) from error
    return ExportResult(out_folder, form, folder_size_bytes(out_folder), time.perf_counter() - started)


def builder_options(form: Form) -> list[str]:
    """The model builder's options for a form.

    For int4, k_quant chooses scales by least squares instead of by the largest weight, and the last matrix has 8 bits:
    in a small model it is tied to the embedding, the part that int4 hurts most. Measured on an 11.5M-parameter model
    with a tied vocabulary of 8,192: KL to fp32 0.0014 -> 0.0001 and the same top token at 95.9 % -> 98.7 % of the
    positions, for 9.6 MB instead of 8.1 MB. The builder stores a tied matrix once (unshared int4: 18.6 MB, KL 0.0009).
    """
    # Windows that matter are refused; for the others 0.18 builds a window-long cache whose shape does not match.
    full_cache = ["windowed_kv_cache=false"]
    if not form.is_quantized:
        return full_cache
    blocks = [f"block_size={form.block_size}", f"algo_config={form.algorithm}"]
    return [*full_cache, *blocks, "matmul_mixed_precision=last_matmul:int8"]


def require_onnx_files(folder: Path) -> None:
    """Refuse a folder in which a needed file is missing or empty.

    Args:
        folder: An ONNX folder.

    Raises:
        UserError: export-failed.
    """
    problems = [f"{name} is missing" for name in NEEDED_FILES if not (folder / name).is_file()]
    problems += [f"{path.name} is empty" for path in sorted(folder.glob("*")) if path.stat().st_size == 0]
    if problems:
        raise _failed(folder, problems)


def _require_exportable(model_folder: Path, out_folder: Path) -> None:
    if not model_folder.is_dir():
        raise UserError("model-missing", f"{model_folder} is not a folder", hint="give the folder of a saved model")
    missing = [name for name in ("config.json", "tokenizer.json") if not (model_folder / name).is_file()]
    if missing:
        raise UserError(
            "model-invalid",
            f"{model_folder} lacks {' and '.join(missing)}",
            hint="save the model together with its tokenizer",
        )
    if out_folder.exists() and (not out_folder.is_dir() or any(out_folder.iterdir())):
        raise UserError(
            "export-failed", f"{out_folder} exists and is not empty", hint="remove it or choose another folder"
        )


def exportable_forms(model_folder: Path, settings: OptimizationSection) -> tuple[Form, ...]:
    """The forms that a recipe asks for; refuses, from the config alone and before any training, what cannot be built.

    Raises:
        UserError: `export-failed`, or `model-invalid` for a config that is not JSON.
    """
    config = _read_config(model_folder / "config.json")
    _require_known_architecture(config)
    _require_full_attention(config)
    given = {name: config.get(name) for name in ("hidden_size", "intermediate_size")}
    return plan_forms(settings, {name: width for name, width in given.items() if isinstance(width, int)})


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _invalid_config(path, str(error)) from error
    if not isinstance(config, dict):
        raise _invalid_config(path, f"expected an object, got {type(config).__name__}")
    return cast("dict[str, object]", config)


def _invalid_config(path: Path, reason: str) -> UserError:
    return UserError("model-invalid", f"{path} cannot be read: {reason}", hint="get the model again from where it came")


def _require_known_architecture(config: Mapping[str, object]) -> None:
    """Refuse what the builder does not know; a config without a name gets one when the model is saved."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name is not None and name not in ARCHITECTURES:
        raise UserError(
            "export-failed",
            f"the ONNX builder does not know the architecture {name}",
            hint="remove the optimization section, or take a base model of another family, such as Llama or Qwen",
        )


def _require_full_attention(config: Mapping[str, object]) -> None:
    """Refuse a sliding window shorter than the context: on a CPU, genai 0.18 leaves it out or breaks at it."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if not config.get("use_sliding_window", True) or not isinstance(window, int) or not isinstance(context, int):
        return
    if window < context:
        raise UserError(
            "export-failed",
            f"the model attends to the last {window} tokens of {context}, which its ONNX form would not",
            hint="remove the optimization section, or take a base model without a sliding window",
        )


def _run_builder(model_folder: Path, built: Path, cache: Path, arguments: Sequence[str]) -> None:
    # -P keeps this package's folder off the child's sys.path, where our onnx.py would hide the onnx package.
    command = [sys.executable, "-P", str(WORKER), *map(str, (model_folder.resolve(), built, cache)), *arguments]
    log_path = built.with_name("build.log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and file, no shell
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=os.environ | OFFLINE
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
    if status != 0:
        lines = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise _build_error(model_folder, built.parent, status, lines)


def _build_error(model_folder: Path, free_at: Path, status: int, lines: list[str]) -> UserError:
    # With nothing left at all, not even the words that say so could be written.
    is_full = shutil.disk_usage(free_at).free < FULL_DISK_BYTES
    if is_full or any("No space left on device" in line for line in lines):
        return UserError(
            "disk-full",
            f"the disk filled up while {model_folder} was exported",
            hint="free some space beside the output folder; an export needs about twice the model's size",
        )
    return _failed(model_folder, [*lines[-NUM_DETAIL_LINES:], f"exit status {status}"])


def _failed(folder: Path, details: Sequence[str]) -> UserError:
    return UserError(
        "export-failed",
        f"no ONNX model could be made of {folder}",
        hint="the last lines above name the cause; models of the Llama, Qwen, Phi, Mistral and Gemma families export",
        details=details,
    )
