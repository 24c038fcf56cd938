"""Whether base models can be loaded, told when a server starts: a client who asks first cannot mend what it is told.

Nothing is loaded and nothing is fetched. What lies in a folder is looked at by its names and headers alone, and a model
of the hub is looked for in the cache of this machine.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from kivnun.errors import UserError
from kivnun.models.resolve import bundled_folder, require_model_files
from kivnun.server.model_names import TUNED_PREFIX
from kivnun.server.service import ENGINES, ServeSettings
from kivnun.serving.exported import EXPORT_NAME

ADAPTER_NAME, HEAD_NAME, SENTENCE_NAME = "adapter_config.json", "head.json", "modules.json"
KINDS_OF_EMBEDDERS = ("builtin", "hf", "dir")
NAME_A_MODEL = "name a folder with config.json and *.safetensors, a Hugging Face id like org/name, or `bundled`"
_WITHIN = ("model", "optimized/*", "run/model", "run/optimized/*", "*")
_LARGEST_HEADER = 100 << 20


def require_models(settings: ServeSettings) -> None:
    """Refuse base models that cannot be loaded.

    Args:
        settings: As asked for.

    Raises:
        UserError: `model-missing` or `model-invalid`, with the flag that named the model.
    """
    named = {name: source for name, source in settings.models.items() if not source.startswith(TUNED_PREFIX)}
    if settings.base_model in settings.models and settings.base_model not in named:
        problem = f"--base-model {settings.base_model}: {settings.models[settings.base_model]} is a tuned model"
        raise UserError("model-invalid", problem, hint=f"{NAME_A_MODEL}; a tuned model is asked for by its own name")
    flags = {f"--model {name}": source for name, source in named.items()}
    if settings.base_model not in settings.models:
        flags["--base-model"] = settings.base_model
    for flag, source in flags.items():
        try:
            require_servable(source, settings.engine)
        except UserError as error:
            raise UserError(error.code, f"{flag}: {error.problem}", hint=error.hint) from error


def require_servable(source: str, engine: ENGINES = "auto") -> None:
    """Refuse a base model that cannot be loaded.

    Args:
        source: What a recipe calls it: `bundled`, a folder or a Hugging Face id.
        engine: What shall compute it.

    Raises:
        UserError: `model-missing` or `model-invalid`.
    """
    folder = Path(source)
    if bundled_folder(source) is not None or source.partition(":")[0] in KINDS_OF_EMBEDDERS:
        return
    if folder.is_dir():
        # Judged where vectors are asked for; only those who train or write text need the rest.
        if not (folder / SENTENCE_NAME).is_file() and not (folder / "model" / HEAD_NAME).is_file():
            _require_folder(folder, engine)
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError("model-missing", f"{source}: no such folder", hint=NAME_A_MODEL)
    elif engine != "vllm":
        # vLLM has ways of its own to fetch and to keep models.
        _require_cached(source)


def _require_cached(repo_id: str) -> None:
    try:
        config = try_to_load_from_cache(repo_id, "config.json")
    except HFValidationError as error:
        raise UserError("model-missing", f"{repo_id}: no such folder", hint=NAME_A_MODEL) from error
    hint = f"`hf download {repo_id}` fetches it; or check the spelling, or name a folder"
    if not isinstance(config, str):
        problem = f"{repo_id} is neither a folder here nor a model in this machine's cache of the Hugging Face hub"
        raise UserError("model-missing", problem, hint=hint)
    try:
        _require_weights(Path(config).parent)
    except UserError as error:
        problem = f"{repo_id} is not whole in this machine's cache of the Hugging Face hub: {error.problem}"
        raise UserError("model-invalid", problem, hint=hint) from error


def _require_folder(folder: Path, engine: ENGINES) -> None:
    is_export = (folder / EXPORT_NAME).is_file() if engine == "auto" else engine == "onnx"
    try:
        if is_export:
            _require_export(folder)
        else:
            _require_weights(folder)
    except UserError as error:
        error.hint = _advise(folder, engine) or error.hint
        raise


def _require_export(folder: Path) -> None:
    """Refuse a folder without the parts of an ONNX model."""
    config = _read_json(folder / EXPORT_NAME)
    parts = config.get("model")
    decoder = parts.get("decoder") if isinstance(parts, dict) else None
    name = decoder.get("filename") if isinstance(decoder, dict) else None
    missing = [] if isinstance(name, str) else [f"the name of its model in {EXPORT_NAME}"]
    missing += [name] if isinstance(name, str) and not (folder / name).is_file() else []
    if missing:
        hint = "export it again, or copy the whole folder"
        raise UserError("model-invalid", f"{folder} lacks {', '.join(missing)}", hint=hint)


def _require_weights(folder: Path) -> None:
    """Refuse a folder without the parts of a model of Transformers, or with a file of weights that was cut."""
    require_model_files(folder)
    _read_json(folder / "config.json")
    for path in sorted(folder.glob("*.safetensors")):
        if not _is_whole(path):
            problem = f"{folder} is damaged: {path.name} is no safetensors file, or is cut short"
            raise UserError("model-invalid", problem, hint="get the model again from where it came")


def _is_whole(path: Path) -> bool:
    """Whether a file of weights is as long as its header says."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                return False
            header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError, IndexError, AttributeError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        problem = f"{path.parent} is no exported model: it has no {path.name}"
        raise UserError("model-invalid", problem, hint="export it first, or let torch compute it") from error
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be read: {error}"
        raise UserError("model-invalid", problem, hint="get the model again from where it came") from error
    if not isinstance(content, dict):
        raise UserError("model-invalid", f"{path} is no JSON object", hint="get the model again from where it came")
    return content


def _advise(folder: Path, engine: ENGINES) -> str:
    """What to name in a folder's place; nothing where that is unknown."""
    run = next((each for each in (folder, folder / "run") if (each / "model").is_dir()), None)
    is_adapter = (folder / ADAPTER_NAME).is_file()
    if is_adapter and (folder.parent / "model").is_dir():
        run = folder.parent
    found = [str(each) for each in _find_within(run or folder) if _can_be_served(each, engine)]
    if found:
        return f"name {' or '.join(found)}"
    if is_adapter or (run is not None and (run / "model" / ADAPTER_NAME).is_file()):
        what = "it holds an adapter, which needs its base model"
        merged = f"`kivnun optimize {run}`" if run is not None else f"`kivnun auto-opt -m BASE -a {folder} -o OUT`"
        return f"{what}: {merged} makes a folder that can be served (a job's own model is served by its `ft:` name)"
    return ""


def _find_within(folder: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for pattern in _WITHIN:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and path not in seen:
                seen.add(path)
                yield path


def _can_be_served(folder: Path, engine: ENGINES) -> bool:
    is_export = (folder / EXPORT_NAME).is_file() if engine == "auto" else engine == "onnx"
    try:
        _require_export(folder) if is_export else _require_weights(folder)
    except UserError:
        return False
    return True
