"""Write a model folder as one GGUF file, which llama.cpp and Ollama run, with the Modelfile that Ollama reads.

The weights are read, turned and written one after the other, so that memory holds one tensor and not the model.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import gguf
import numpy as np

from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.models.load import load_tokenizer
from kivnun.optimization.gguf_settings import Config, find_architecture, refused, write_settings
from kivnun.optimization.gguf_tokenizer import GgufTokenizer, read_gguf_tokenizer, write_tokenizer
from kivnun.optimization.gguf_weights import GgufTensor, encode_tensor, extra_tensors, plan_tensors
from kivnun.optimization.measure import folder_size_bytes
from kivnun.optimization.modelfile import Modelfile, make_modelfile
from kivnun.recipe.optimization import GgufPrecision
from kivnun.runs.atomic import disk_full_as_user_error, sync_file

MODELFILE_NAME = "Modelfile"
PROGRESS_SECONDS = 2.0
_FILE_TYPES: Mapping[GgufPrecision, gguf.LlamaFileType] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


@dataclass(frozen=True)
class GgufResult:
    """A written folder.

    Attributes:
        folder: Holds `model-<precision>.gguf` and `Modelfile`; can be moved.
        precision: Number format of the matrices.
        size_bytes: Of all files.
        notes: What the user of the file must know.
    """

    folder: Path
    precision: GgufPrecision
    size_bytes: int
    notes: tuple[str, ...] = field(default=())

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.folder / gguf_name(self.precision)


@dataclass(frozen=True)
class _Parts:
    """Everything that is read and checked before anything is written."""

    architecture: str
    config: Config
    tokenizer: GgufTokenizer
    tensors: Sequence[GgufTensor]
    modelfile: Modelfile


def gguf_name(precision: GgufPrecision) -> str:
    """The name of the file in its folder."""
    return f"model-{precision}.gguf"


def require_gguf(model_folder: Path) -> None:
    """Refuse, from its config and tokenizer alone, a model that cannot become GGUF: before it is trained.

    Args:
        model_folder: A Hugging Face folder.

    Raises:
        UserError: `export-failed`, or `model-invalid` where config or tokenizer cannot be read.
    """
    config = _read_config(model_folder)
    find_architecture(config)
    read_gguf_tokenizer(model_folder, _vocab_size(config))


def export_gguf(
    model_folder: Path,
    out_folder: Path,
    precision: GgufPrecision,
    *,
    template: PromptTemplate,
    log: Callable[[str, Mapping[str, object]], None],
) -> GgufResult:
    """Write a folder with the GGUF file and its Modelfile.

    Args:
        model_folder: A Hugging Face folder with config, safetensors and tokenizer.
        out_folder: Appears only when everything is written; must not exist, or be empty.
        precision: Number format of the matrices; vectors, such as norms, stay float32.
        template: How prompts are written; it goes into the file and the Modelfile.
        log: Takes `gguf_progress` every two seconds, and `gguf_note` for what the user must know.

    Raises:
        UserError: export-failed, model-invalid, disk-full.
    """
    if out_folder.exists() and (not out_folder.is_dir() or any(out_folder.iterdir())):
        raise refused(f"{out_folder} exists and is not empty", "remove it or choose another folder")
    parts = _read_parts(model_folder, precision, template)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_full_as_user_error(out_folder),
        tempfile.TemporaryDirectory(prefix=f".{out_folder.name}.", dir=out_folder.parent) as work,
    ):
        built = Path(work) / "gguf"
        built.mkdir()
        _write_file(built / gguf_name(precision), parts, precision, log)
        (built / MODELFILE_NAME).write_text(parts.modelfile.text, "utf-8")
        for path in built.iterdir():
            sync_file(path)
        built.replace(out_folder)
    notes = (*parts.tokenizer.notes, *parts.modelfile.notes)
    for note in notes:
        log("gguf_note", {"note": note})
    return GgufResult(out_folder, precision, folder_size_bytes(out_folder), notes)


def _read_parts(model_folder: Path, precision: GgufPrecision, template: PromptTemplate) -> _Parts:
    config = _read_config(model_folder)
    architecture = find_architecture(config)
    tokenizer = read_gguf_tokenizer(model_folder, _vocab_size(config))
    modelfile = make_modelfile(
        gguf_name(precision),
        load_tokenizer(model_folder),
        template,
        stop_ids=_read_stop_ids(model_folder),
        adds_begin=tokenizer.adds_begin,
    )
    tensors = plan_tensors(model_folder, architecture, config, precision)
    embedding = next((tensor for tensor in tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or embedding.shape[0] != _vocab_size(config):
        hint = "use the whole model folder, with every *.safetensors file"
        raise UserError("model-invalid", f"{model_folder} has no embedding of vocab_size rows", hint=hint)
    return _Parts(architecture, config, tokenizer, tensors, modelfile)


def _write_file(
    path: Path, parts: _Parts, precision: GgufPrecision, log: Callable[[str, Mapping[str, object]], None]
) -> None:
    writer = gguf.GGUFWriter(path, parts.architecture)
    try:
        _write_metadata(writer, parts, precision)
        extra = extra_tensors(parts.architecture, parts.config)
        for name, values in extra.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        for tensor in parts.tensors:
            # With a type given, the writer takes the shape in numbers for all but bytes, which is what blocks are.
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in extra.values():
            writer.write_tensor_data(values)
        _write_tensors(writer, parts, log)
    finally:
        writer.close()


def _write_tensors(writer: gguf.GGUFWriter, parts: _Parts, log: Callable[[str, Mapping[str, object]], None]) -> None:
    total, done, told = sum(tensor.size_bytes for tensor in parts.tensors), 0, time.monotonic()
    for tensor in parts.tensors:
        writer.write_tensor_data(encode_tensor(tensor, parts.architecture, parts.config))
        done += tensor.size_bytes
        if time.monotonic() - told >= PROGRESS_SECONDS:
            log("gguf_progress", {"done_bytes": done, "total_bytes": total})
            told = time.monotonic()


def _write_metadata(writer: gguf.GGUFWriter, parts: _Parts, precision: GgufPrecision) -> None:
    # llama.cpp drops the spaces behind Phi-3's turn signs only for models that are called so.
    writer.add_name("phi3" if parts.architecture == "phi3" and parts.tokenizer.model == "llama" else "kivnun")
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_settings(writer, parts.architecture, parts.config)
    write_tokenizer(writer, parts.tokenizer)
    # llama.cpp stops at this one too, whatever program runs it; a third one needs the Modelfile's stop lines.
    if parts.modelfile.more_stop_ids:
        writer.add_eot_token_id(parts.modelfile.more_stop_ids[0])
    if parts.modelfile.chat_template is not None:
        writer.add_chat_template(parts.modelfile.chat_template)


def _read_config(model_folder: Path) -> Config:
    path = model_folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        hint = "get the model again from where it came"
        raise UserError("model-invalid", f"{path} cannot be read: {error}", hint=hint) from error
    if not isinstance(config, dict):
        raise UserError("model-invalid", f"{path} holds no object", hint="get the model again from where it came")
    return cast("Config", config)


def _vocab_size(config: Config) -> int:
    size = config.get("vocab_size")
    if not isinstance(size, int):
        raise refused("config.json has no vocab_size", "get config.json again from where the model came")
    return size


def _read_stop_ids(model_folder: Path) -> list[int]:
    """The tokens that end an answer, as the merged folder tells other tools."""
    path = model_folder / "generation_config.json"
    ids = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    return [ids] if isinstance(ids, int) else list(cast("list[int]", ids or []))
