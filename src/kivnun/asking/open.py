"""Any model by its name: a run, a folder, an id, an exported form or an endpoint becomes an `AskedModel`."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from kivnun.asking.anthropic_model import open_anthropic
from kivnun.asking.local import Kind, LabellingModel, LocalModel
from kivnun.asking.openai_model import open_openai
from kivnun.asking.request import AskedModel, Log
from kivnun.asking.spec import EndpointSpec, LocalSpec, parse_spec
from kivnun.assistant import Assistant, base_folder, is_classifier, open_assistant, open_headed, open_shared
from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset
from kivnun.data.template import TEMPLATE_NAME, PromptTemplate, load_template
from kivnun.errors import UserError
from kivnun.generation.adapter_list import has_adapters
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.load import load_model, load_tokenizer, move_model
from kivnun.models.resolve import bundled_folder, resolve_model
from kivnun.optimization.adapter_sources import has_chat_template, read_stop_ids
from kivnun.optimization.engines import is_form, open_form
from kivnun.runs import content_hash, find_run, hash_file
from kivnun.runs.store import RUNS_FOLDER, is_run
from kivnun.training.device import pick_device

CPU_BATCH, GPU_BATCH = 32, 64
_NOTES = (".md",)


def quiet(_event: str, _fields: Mapping[str, object]) -> None:
    """A log that nobody reads."""


def open_model(spec: str, *, kind: Kind | None = None, log: Log = quiet) -> AskedModel:
    """A model that can be asked; one of this machine is loaded, an endpoint is not asked yet.

    Args:
        spec: A run's name or folder, `bundled`, a Hugging Face folder or id, an exported folder,
            `openai:MODEL?base_url=ADDRESS&key_variable=NAME` or `anthropic:MODEL?...`. Of a run `#torch` or `#onnx`
            chooses the form, of a folder with adapters `#NAME` the adapter; `#text` and `#chat` say how a model of
            this machine is asked.
        kind: How a model of this machine is asked of which neither its name nor a template of its own says it; if not
            given, one with a chat template chats.
        log: Takes `retrying` and `adapted` of endpoints.

    Raises:
        UserError: `run-missing`, `model-missing`, `model-invalid`, `adapter-unknown`, `stage-unsupported` for a model
            that writes no text or cannot be asked that way, `dependency-missing` or `endpoint-failed`.
    """
    found = LocalSpec(spec) if Path(spec).is_dir() else parse_spec(spec)
    if isinstance(found, EndpointSpec):
        return open_openai(found, log=log) if found.service == "openai" else open_anthropic(found, log=log)
    folder = Path(found.name)
    run_dir = find_named_run(found.name)
    if run_dir is not None:
        return _open_run(found, run_dir)
    if folder.is_dir() and has_adapters(folder):
        _require_no_engine(found)
        return _local(found, open_shared(folder, found.adapter), hash_folder(folder), None)
    if found.adapter is not None:
        raise UserError(
            "adapter-unknown",
            f"{found.name} has no adapters to choose from, so that #{found.adapter} has no meaning",
            hint="name a folder that `kivnun generate-adapter` wrote; or say #torch, #onnx, #text or #chat",
        )
    _require_no_engine(found)
    if folder.is_dir() and is_form(folder) and not any(folder.glob("*.safetensors")):
        return _open_exported(found, folder, kind)
    return _open_hugging_face(found, kind)


def find_named_run(name: str) -> Path | None:
    """The folder of the run that a name means; None where it means something else.

    Args:
        name: As a user gives it.
    """
    if bundled_folder(name) is not None and not Path(name).is_dir():
        return None
    if any(is_run(folder) for folder in (Path(name), RUNS_FOLDER / name)):
        return find_run(name)
    # A mere word is no Hugging Face id and no folder: it is a run, spelt right or wrong.
    return find_run(name) if "/" not in name and not Path(name).exists() else None


def _open_run(spec: LocalSpec, run_dir: Path) -> AskedModel:
    if spec.adapter is not None:
        raise UserError(
            "adapter-unknown",
            f"a run has no adapters to choose from, so that #{spec.adapter} has no meaning",
            hint="say #torch, #onnx, #text or #chat",
        )
    if is_classifier(run_dir):
        if spec.engine == "onnx":
            raise UserError(
                "stage-unsupported", f"{run_dir} holds a classifier, which has no ONNX form", hint="leave #onnx out"
            )
        headed = open_headed(run_dir, "classification")
        kind = spec.kind or _kind_of(headed.template)
        identity = _digest(content_hash(run_dir / "model"), "classifier", kind)
        return LabellingModel(headed, spec.name, identity, kind)
    assistant = open_assistant(run_dir, spec.engine)
    parts = [content_hash(run_dir / "model"), assistant.engine.name]
    if assistant.engine.name == "onnx":
        parts.append(content_hash(run_dir / "optimized"))
    elif pick_device().type != "cpu":
        assistant = _on_device(assistant, run_dir)
    return _local(spec, assistant, _digest(*parts), None)


def _on_device(assistant: Assistant, run_dir: Path) -> Assistant:
    """The trained model of a run on the accelerator."""
    model = move_model(load_tuned(base_folder(run_dir), run_dir / "model", dtype=torch.float32), pick_device())
    engine = TorchEngine(model, pad_id=assistant.encoder.end_id, batch_size=GPU_BATCH)
    return replace(assistant, engine=engine, stop_ids=read_dataset(run_dir / "dataset").stop_ids)


def _open_exported(spec: LocalSpec, folder: Path, kind: Kind | None) -> LocalModel:
    encoder = Encoder(load_tokenizer(folder))
    engine = open_form(folder, name=spec.name)
    assistant = Assistant(engine, encoder, _template_of(folder), read_stop_ids(folder, encoder.end_id))
    return _local(spec, assistant, hash_folder(folder), _unless_own(kind, folder))


def _open_hugging_face(spec: LocalSpec, kind: Kind | None) -> LocalModel:
    resolved = resolve_model(spec.name)
    encoder = Encoder(load_tokenizer(resolved.folder))
    device = pick_device()
    model = move_model(load_model(resolved.folder, dtype=torch.float32), device)
    batch_size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    engine = TorchEngine(model, pad_id=encoder.end_id, batch_size=batch_size, name=spec.name)
    stop_ids = read_stop_ids(resolved.folder, encoder.end_id)
    assistant = Assistant(engine, encoder, _template_of(resolved.folder), stop_ids)
    identity = _digest(resolved.content_hash, _hash_template(resolved.folder))
    return _local(spec, assistant, identity, _unless_own(kind, resolved.folder))


def _local(spec: LocalSpec, assistant: Assistant, identity: str, kind: Kind | None) -> LocalModel:
    chosen = spec.kind or kind or _kind_of(assistant.template)
    name = f"{spec.name}#{spec.adapter}" if spec.adapter else spec.name
    batch_size = 1 if assistant.engine.name == "onnx" else CPU_BATCH
    return LocalModel(assistant, name, _digest(identity, spec.adapter or "", chosen), chosen, batch_size=batch_size)


def _unless_own(kind: Kind | None, folder: Path) -> Kind | None:
    return None if (folder / TEMPLATE_NAME).is_file() else kind


def _kind_of(template: PromptTemplate) -> Kind:
    return "chat" if template.kind == "chat" else "text"


def _template_of(folder: Path) -> PromptTemplate:
    """A folder's own template; without one it chats if it has a chat template, and else continues text."""
    if (folder / TEMPLATE_NAME).is_file():
        return load_template(folder)
    return PromptTemplate("chat") if has_chat_template(folder) else PromptTemplate("text", column="text")


def _require_no_engine(spec: LocalSpec) -> None:
    if spec.engine is not None:
        raise UserError(
            "stage-unsupported",
            f"#{spec.engine} chooses between the forms of a run, and {spec.name} is no run",
            hint=f"leave #{spec.engine} out: what lies in the folder decides",
        )


def hash_folder(folder: Path) -> str:
    """Hash over names and contents of a model folder's files: weights have any ending, `.onnx_data` among them.

    Args:
        folder: Of the model; notes in Markdown do not count.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _NOTES)
    return _digest(*(f"{path.relative_to(folder)} {hash_file(path)}" for path in files))


def _hash_template(folder: Path) -> str:
    path = folder / TEMPLATE_NAME
    return hash_file(path) if path.is_file() else ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
