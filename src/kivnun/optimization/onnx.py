"""Export a model folder to an ONNX folder that onnxruntime-genai runs, in any form: fp32, fp16, int8 or int4.

The model builder runs in a process of its own: it prints without end, changes `sys.path`, sets global state in
transformers and holds several copies of the weights; so its output is caught whole, its memory is given back when it
ends, and a crash inside it is an error here and not the end of the run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivnun.errors import UserError
from kivnun.optimization.architectures import (
    ContextLimit,
    context_limit,
    num_layers,
    read_config,
    require_exportable,
)
from kivnun.optimization.calibration import calibrate, calibrated_options
from kivnun.optimization.forms import Form
from kivnun.optimization.measure import folder_size_bytes
from kivnun.recipe.optimization import Target
from kivnun.runs.atomic import disk_full_as_user_error

CONFIG_NAME = "genai_config.json"
NEEDED_FILES = ("model.onnx", CONFIG_NAME, "tokenizer.json", "tokenizer_config.json")
WORKER = Path(__file__).with_name("onnx_worker.py")
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
BUILDER_PROVIDERS: Mapping[Target, str] = {"cpu": "cpu", "cuda": "cuda", "directml": "dml"}
"""What the builder and `genai_config.json` call each target."""

_LAYER = re.compile(r"Reading layer (\d+)")
_ROUNDED = re.compile(r"Progress: \[[# ]*\] *(\d+)")

Log = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True)
class ExportResult:
    """An exported folder.

    Attributes:
        folder: Holds model.onnx, its data, genai_config.json and the tokenizer; can be moved.
        form: What was built.
        size_bytes: Of all files.
        build_seconds: Wall time of the build and its check.
        checked: Whether a token was computed; otherwise the form runs elsewhere, and only its weights and graph were
            checked.
        notes: What a user must know of it, as sentences.
    """

    folder: Path
    form: Form
    size_bytes: int
    build_seconds: float
    checked: bool
    notes: tuple[str, ...]


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    """For callers that show nothing."""


def export_onnx(
    model_folder: Path,
    out_folder: Path,
    form: Form,
    *,
    calibration: Sequence[Sequence[int]] = (),
    options: Sequence[str] = (),
    log: Log = _ignore,
) -> ExportResult:
    """Build an ONNX folder and check it: every weight, that the graph loads, and here the logits of one token.

    Args:
        model_folder: A Hugging Face folder with config, safetensors and tokenizer.
        out_folder: Appears only when everything is checked; must not exist, or be empty.
        form: The form to build.
        calibration: Token ids of training rows, for the algorithms that look at them.
        options: Further `key=value` options of the builder.
        log: Takes `exporting` (name, done, total) as the build goes on, and the events of `calibrate`.

    Raises:
        UserError: export-failed, model-missing, model-invalid, disk-full.
    """
    _require_folders(model_folder, out_folder)
    config = read_config(model_folder)
    require_exportable(config, form.target)
    limit = context_limit(config, form.target)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (
        disk_full_as_user_error(out_folder),
        tempfile.TemporaryDirectory(prefix=f".{out_folder.name}.", dir=out_folder.parent) as work_text,
    ):
        work = Path(work_text)
        source, built = model_folder.resolve(), work / "onnx"
        if form.needs_calibration:
            source = calibrate(source, work / "calibrated", form, calibration, log=log)
        arguments = [form.precision, BUILDER_PROVIDERS[form.target], *builder_options(form), *options]
        watch = _watch(form, num_layers(config), log)
        _run_builder(model_folder, [str(source), str(built), str(work / "cache"), *arguments], watch)
        require_onnx_files(built)
        if limit is not None:
            limit_context(built, limit.tokens)
        try:
            built.replace(out_folder)
        except OSError as error:
            raise _failed(model_folder, [f"cannot move the result to {out_folder}: {error}"]) from error
    seconds = time.perf_counter() - started
    return ExportResult(out_folder, form, folder_size_bytes(out_folder), seconds, form.runs_here, _notes(form, limit))


def builder_options(form: Form) -> list[str]:
    """The model builder's options for a form.

    For int4, k_quant chooses scales by least squares instead of by the largest weight, and the last matrix has 8 bits:
    in a small model it is tied to the embedding, the part that int4 hurts most. Measured on an 11.5M-parameter model
    with a tied vocabulary of 8,192: KL to fp32 0.0014 -> 0.0001 and the same top token at 95.9 % -> 98.7 % of the
    positions, for 9.6 MB instead of 8.1 MB. The builder stores a tied matrix once (unshared int4: 18.6 MB, KL 0.0009).
    """
    # With its own, window-long cache, the shapes that 0.18 builds for layers with sliding windows do not match.
    # Of a prompt only the last token's logits are asked for. Measured: int4, a vocabulary of 64,000 and a prompt of 700
    # tokens took 671 ms to the first token with all of them, and 29 ms without, for the same logits.
    always = ["windowed_kv_cache=false", "prune_lm_head=true"]
    if not form.is_quantized:
        return always
    if form.needs_calibration:
        return [*always, *calibrated_options(form)]
    blocks = [f"block_size={form.block_size}", f"algo_config={form.algorithm}"]
    return [*always, *blocks, "matmul_mixed_precision=last_matmul:int8"]


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


def limit_context(folder: Path, tokens: int) -> None:
    """Let an ONNX folder take no more tokens, prompt and answer together.

    Args:
        folder: An ONNX folder that nobody uses yet.
        tokens: The most.
    """
    path = folder / CONFIG_NAME
    config = json.loads(path.read_bytes())
    config["model"]["context_length"] = min(tokens, config["model"]["context_length"])
    config["search"]["max_length"] = min(tokens, config["search"]["max_length"])
    path.write_text(json.dumps(config, indent=4), "utf-8")


def _notes(form: Form, limit: ContextLimit | None) -> tuple[str, ...]:
    notes = []
    if limit is not None:
        notes.append(f"{form} takes {limit.tokens} tokens, prompt and answer together: {limit.reason}")
    if not form.runs_here:
        notes.append(f"{form} was built and not run: check it on that machine with kivnun verify")
    return tuple(notes)


def _require_folders(model_folder: Path, out_folder: Path) -> None:
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


def _watch(form: Form, layers: int | None, log: Log) -> Callable[[str], None]:
    """What reads the builder's output: layers are read first, and then a quantised form's matrices are rounded."""
    total = (layers or 0) * (2 if form.is_quantized else 1)

    said = 0

    def read(line: str) -> None:
        nonlocal said
        layer, percent = _LAYER.match(line), _ROUNDED.match(line)
        done = int(layer[1]) + 1 if layer else 0
        if percent and layers:
            done = layers + layers * int(percent[1]) // 100
        if said < done <= total:
            said = done
            log("exporting", {"name": str(form), "done": done, "total": total})

    return read


def _run_builder(model_folder: Path, arguments: Sequence[str], watch: Callable[[str], None]) -> None:
    # -P keeps this package's folder off the child's sys.path, where our onnx.py would hide the onnx package.
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file, no shell
        [sys.executable, "-P", str(WORKER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | OFFLINE,
        encoding="utf-8",
        errors="replace",
    )
    lines: deque[str] = deque(maxlen=NUM_DETAIL_LINES)
    # The context closes the pipes; the process ends with the one to its standard input, and for certain by the kill.
    with process:
        try:
            for line in process.stdout or ():
                watch(line)
                if line.strip():
                    lines.append(line.rstrip())
            status = process.wait()
        finally:
            process.kill()
    if status != 0:
        raise _build_error(model_folder, Path(arguments[1]).parent, status, [*lines])


def _build_error(model_folder: Path, free_at: Path, status: int, lines: list[str]) -> UserError:
    is_full = shutil.disk_usage(free_at).free < FULL_DISK_BYTES
    if is_full or any("No space left on device" in line for line in lines):
        return UserError(
            "disk-full",
            f"the disk filled up while {model_folder} was exported",
            hint="free some space beside the output folder; an export needs about twice the model's size",
        )
    return _failed(model_folder, [*lines, f"exit status {status}"])


def _failed(folder: Path, details: Sequence[str]) -> UserError:
    return UserError(
        "export-failed",
        f"no ONNX model could be made of {folder}",
        hint="the last lines above name the cause; Llama, Qwen, Phi, Mistral, Gemma and GPT-2 models export",
        details=details,
    )
