"""One ONNX model and the adapters that share it: made, added to, taken from, always a folder that loads.

The graph is built once from the base model, with inputs for adapters (`onnx_lora.py`); each adapter is a small file of
its own. An adapter is named in the folder's list only when it was asked something and answered like the torch model.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import AdapterFormat, OrtValue

from kivnun.errors import UserError
from kivnun.generation.adapter_list import (
    SUFFIX,
    AdapterList,
    AdapterRecord,
    adapter_file,
    changing,
    read_list,
    write_list,
)
from kivnun.generation.agreement import compare_answers, require_parity
from kivnun.generation.engine import Generation
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods.base_model import hash_weights
from kivnun.methods.many_lora import OWN_MODEL, Factors, ManyLora, read_factors
from kivnun.models.load import load_model
from kivnun.models.resolve import ResolvedModel, resolve_model
from kivnun.optimization.adapter_sources import AdapterSource, Questions, copy_own_files, plan_questions
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx
from kivnun.optimization.onnx_lora import Place, fill_places, put_places, read_places
from kivnun.runs import hash_file
from kivnun.runs.atomic import disk_full_as_user_error, sync_file, sync_folder

TIE_TOLERANCE = 1e-3
# Queries, keys and values stay layers of their own, as adapters know them.
BUILDER_OPTIONS = ("fuse_qkv=false",)
# ONNX Runtime warns of every input that has a default, hundreds of times; what is wrong with a model is thrown too.
LOG_ERRORS_ONLY = 3

Log = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True)
class Prepared:
    """An adapter that fits the base model, and what the torch model with it answers.

    Attributes:
        source: Where it came from.
        rank: Of its matrices.
        factors: Its matrices by layer.
        questions: What it is asked.
        answers: The answers of the torch model.
    """

    source: AdapterSource
    rank: int
    factors: Mapping[str, Factors]
    questions: Questions
    answers: Sequence[Generation]


def make_adapter_model(
    base: ResolvedModel, sources: Sequence[AdapterSource], out_folder: Path, form: Form, *, log: Log
) -> AdapterList:
    """Build one ONNX model of a base model and put adapters beside it.

    Args:
        base: The base model.
        sources: The adapters.
        out_folder: Appears when it is whole; must not exist, or be empty.
        form: Number format of the graph.
        log: Takes `exporting` while the graph is built, `adapter_prepared` and `adapter_added`.

    Raises:
        UserError: `adapter-invalid` before anything is built; `parity-failed`, `export-failed`, `disk-full`.
    """
    if out_folder.exists() and (not out_folder.is_dir() or any(out_folder.iterdir())):
        hint = "name another folder; `kivnun adapters add` adds an adapter to one that exists"
        raise UserError("file-exists", f"{out_folder} exists and is not empty", hint=hint)
    prepared = prepare_adapters(base, sources, log=log)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_full_as_user_error(out_folder),
        tempfile.TemporaryDirectory(prefix=f".{out_folder.name}.", dir=out_folder.parent) as work,
    ):
        folder = Path(work) / "model"
        export_onnx(base.folder, folder, form, options=BUILDER_OPTIONS, log=log)
        put_places(folder)
        _quieten(folder)
        name = str(base.folder.resolve()) if base.revision is None and Path(base.name).is_dir() else base.name
        write_list(folder, AdapterList(name, hash_weights(base.folder), str(form), form.precision))
        added = put_adapters(folder, prepared, log=log)
        folder.replace(out_folder)
    return added


def prepare_adapters(base: ResolvedModel, sources: Sequence[AdapterSource], *, log: Log) -> list[Prepared]:
    """Check that adapters fit a base model, and ask the torch model with each.

    Raises:
        UserError: `adapter-invalid`.
    """
    model = load_model(base.folder, dtype=torch.float32)
    many = ManyLora(model, base.folder)
    engine = TorchEngine(model, pad_id=0, adapters=many)
    found = []
    for source in sources:
        rank, factors = read_factors(model, base.folder, source.folder)
        questions = plan_questions(source, base.folder)
        many.add(source.name, source.folder)
        answers = engine.with_adapter(source.name).generate(
            questions.prompts, max_new_tokens=questions.max_new_tokens, stop_ids=questions.stop_ids
        )
        many.remove(source.name)
        found.append(Prepared(source, rank, factors, questions, answers))
        log("adapter_prepared", {"name": source.name, "rank": rank, "layers": len(factors)})
    return found


def put_adapters(folder: Path, prepared: Sequence[Prepared], *, log: Log) -> AdapterList:
    """Add adapters to a folder; each is named in its list as soon as it is checked and its file is whole.

    Raises:
        UserError: `run-locked`, `adapter-taken`, `adapter-invalid`, `parity-failed`; those before it stay.
    """
    with changing(folder):
        return _put_all(folder, prepared, log)


def _put_all(folder: Path, prepared: Sequence[Prepared], log: Log) -> AdapterList:
    adapters = read_list(folder)
    _require_free(folder, adapters, [each.source for each in prepared])
    places = {place.name: place for place in read_places(folder)}
    filled = [_fill(each, places) for each in prepared]
    engine = OnnxEngine(folder)
    for each, values in zip(prepared, filled, strict=True):
        record = _put(folder, each, values, engine, precision=adapters.precision)
        adapters = adapters.with_adapter(record)
        write_list(folder, adapters)
        log(
            "adapter_added", {"name": record.name, "size_bytes": record.size_bytes, "agreement": record.token_agreement}
        )
    return adapters


def add_adapters(
    folder: Path, sources: Sequence[AdapterSource], *, base_model: str | None = None, log: Log
) -> AdapterList:
    """Add adapters to a folder that `make_adapter_model` made; its graph is not touched.

    Args:
        folder: The folder.
        sources: The adapters.
        base_model: The base model, where it is not any more where the folder says.
        log: Takes `adapter_prepared` and `adapter_added`.

    Raises:
        UserError: As for `put_adapters`, and `model-invalid` where the base model is another one now.
    """
    adapters = read_list(folder)
    _require_free(folder, adapters, sources)
    base = resolve_model(base_model or adapters.base_model)
    if hash_weights(base.folder) != adapters.base_hash:
        raise UserError(
            "model-invalid",
            f"{base.folder} holds other weights than those that {folder} was made from",
            hint="name the right base model with --base_model_path, or make the folder anew",
        )
    return put_adapters(folder, prepare_adapters(base, sources, log=log), log=log)


def _require_free(folder: Path, adapters: AdapterList, sources: Sequence[AdapterSource]) -> None:
    for source in sources:
        if source.name in adapters.names:
            hint = f"`kivnun adapters remove {folder} {source.name}` makes room, or name it as in other={source.folder}"
            raise UserError("adapter-taken", f"{folder} has an adapter {source.name!r} already", hint=hint)


def remove_adapter(folder: Path, name: str) -> AdapterList:
    """Take an adapter off a folder.

    Raises:
        UserError: `adapter-unknown`, `model-invalid`, `run-locked`.
    """
    read_list(folder)
    with changing(folder):
        adapters = read_list(folder)
        adapters.find(name, folder)
        left = adapters.without(name)
        write_list(folder, left)
        adapter_file(folder, name).unlink(missing_ok=True)
        shutil.rmtree(own_folder(folder, name), ignore_errors=True)
    return left


def own_folder(folder: Path, name: str) -> Path:
    """Where an adapter's template and golden prompts are."""
    return adapter_file(folder, name).parent / name


def _fill(prepared: Prepared, places: Mapping[str, Place]) -> dict[str, NDArray[np.float32]]:
    values: dict[str, NDArray[np.float32]] = {}
    for layer, factors in prepared.factors.items():
        try:
            values.update(fill_places(layer, factors.a.numpy(), factors.b.numpy(), places))
        except (KeyError, ValueError) as error:
            reason = f"the graph has no layer {error}" if isinstance(error, KeyError) else str(error)
            problem = f"{prepared.source.folder}: the adapter changes {layer}, which has no inputs for it: {reason}"
            raise UserError("adapter-invalid", problem, hint=OWN_MODEL) from error
    return values


def _put(
    folder: Path, prepared: Prepared, values: Mapping[str, NDArray[np.float32]], engine: OnnxEngine, *, precision: str
) -> AdapterRecord:
    """Write an adapter's files, check them, and give them their names; what is not in the list yet counts as absent."""
    source, questions = prepared.source, prepared.questions
    final = adapter_file(folder, source.name)
    with tempfile.TemporaryDirectory(prefix=f".{source.name}.", dir=final.parent) as work:
        written = Path(work) / f"adapter{SUFFIX}"
        with disk_full_as_user_error(final):
            _write_values(written, values)
            copy_own_files(source, Path(work) / "own")
        identical, token_agreement = _check(prepared, engine.with_adapter_file(written), strict=precision == "fp32")
        record = AdapterRecord(
            name=source.name,
            source=str(source.folder),
            rank=prepared.rank,
            layers=len(prepared.factors),
            targets=tuple(sorted({name.rpartition(".")[2] for name in prepared.factors})),
            sha256=hash_file(written),
            size_bytes=written.stat().st_size,
            stop_ids=tuple(sorted(questions.stop_ids)),
            prompts=len(questions.prompts),
            identical=identical,
            token_agreement=token_agreement,
        )
        # Of an adapter that was removed, or never named, halfway.
        shutil.rmtree(own_folder(folder, source.name), ignore_errors=True)
        (Path(work) / "own").replace(own_folder(folder, source.name))
        written.replace(final)
    sync_folder(final.parent)
    return record


def _write_values(path: Path, values: Mapping[str, NDArray[np.float32]]) -> None:
    file = AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({name: OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
    file.export_adapter(str(path))  # type: ignore[arg-type] - a text, whatever its stub says
    sync_file(path)


def _check(prepared: Prepared, engine: OnnxEngine, *, strict: bool) -> tuple[int, float]:
    """How many questions are answered as by the torch model, and the share of its tokens that are chosen after it."""
    questions = prepared.questions
    said = engine.generate(questions.prompts, max_new_tokens=questions.max_new_tokens, stop_ids=questions.stop_ids)
    agreement = compare_answers(prepared.answers, said, tie_tolerance=TIE_TOLERANCE)
    if strict:
        require_parity(f"the adapter {prepared.source.name}", agreement)
    chosen = agreed = 0
    for prompt, answer in zip(questions.prompts, prepared.answers, strict=True):
        best = [int(logits_V.argmax()) for logits_V in engine.forced_logits(prompt, answer.token_ids)]
        agreed += sum(one == other for one, other in zip(best, answer.token_ids, strict=False))
        chosen += len(answer.token_ids)
        if answer.finished == "stop":
            agreed += best[-1] in questions.stop_ids
            chosen += 1
    return agreement.identical + agreement.ties, agreed / chosen


def _quieten(folder: Path) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_bytes())
    config["model"]["decoder"]["session_options"]["log_severity_level"] = LOG_ERRORS_ONLY
    path.write_text(json.dumps(config, indent=4), "utf-8")
