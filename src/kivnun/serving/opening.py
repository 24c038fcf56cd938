"""From an address to a model in memory: what computes, and how prompts are written and answers end."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.data.encode import Encoder
from kivnun.data.folder import SUMMARY_NAME, read_summary
from kivnun.data.template import TEMPLATE_NAME, PromptTemplate, load_template
from kivnun.errors import UserError
from kivnun.generation.adapter_list import SUFFIX, has_adapters, read_list
from kivnun.generation.row_model import RowModel
from kivnun.generation.torch_rows import TorchRows
from kivnun.methods import load_tuned
from kivnun.methods.adapter import CONFIG_NAME, adapter_kind
from kivnun.methods.base_model import BASE_MODEL_NAME, hash_weights
from kivnun.methods.many_lora import ManyLora
from kivnun.models.heads import read_head
from kivnun.models.load import load_model, load_tokenizer, move_model
from kivnun.models.resolve import resolve_model
from kivnun.optimization.adapter_sources import CHAT_TEMPLATE_NAME, has_chat_template, read_stop_ids
from kivnun.serving.answers import EngineName, ModelAddress
from kivnun.serving.exported import EXPORT_NAME
from kivnun.training.device import pick_device

# Above so many weights a model is computed in bf16: in fp32 it would fill the machine.
MOST_FP32_WEIGHTS = 1_000_000_000
# Loading needs a little beside the weights.
LOADING_FACTOR = 1.1


@dataclass(frozen=True)
class TextSide:
    """How a model is asked, and when it has answered.

    Attributes:
        encoder: Its tokenizer.
        template: How prompts are written.
        stop_ids: Tokens that end an answer.
    """

    encoder: Encoder
    template: PromptTemplate
    stop_ids: frozenset[int]


@dataclass(frozen=True)
class Opening:
    """What has to be loaded for an address.

    Attributes:
        address: What was asked for.
        folder: Of the base model.
        shares_base: Whether it is the base itself or a plain LoRA adapter, so that it shares the base in memory.
        num_bytes: Memory that the weights will take, about.
        dtype: What they are computed in; None for an exported form, which says so itself.
    """

    address: ModelAddress
    folder: Path
    shares_base: bool
    num_bytes: int
    dtype: torch.dtype | None

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for addresses that share what is loaded."""
        own = () if self.shares_base else (str(self.address.tuned),)
        return (self.address.engine, str(self.folder), *own)

    @property
    def adapter(self) -> str | None:
        """What rows call the adapter; None for a model that needs none."""
        return str(self.address.tuned) if self.shares_base and self.address.tuned is not None else None

    @property
    def name(self) -> str:
        """What errors and reports call it; clients see it, so that it holds no path."""
        base = Path(self.address.base).name
        return base if self.shares_base else f"{base}, tuned"


def find_base(base: str, engine: EngineName) -> Path:
    """The folder of a base model.

    Args:
        base: Name, folder or id.
        engine: What shall compute it.

    Raises:
        UserError: `model-missing`, `model-invalid`.
    """
    if engine == "torch":
        return resolve_model(base).folder
    if not (Path(base) / EXPORT_NAME).is_file():
        problem = f"{base} is no exported model: it has no {EXPORT_NAME}"
        raise UserError("model-invalid", problem, hint="export it first, or let torch compute it")
    return Path(base)


def own_base(tuned: Path) -> Path | None:
    """The base model that a run made for itself, where the tuned model was trained on that one.

    Args:
        tuned: What a training wrote, `run/model` or `run/epochs/step-000123`.
    """
    about = tuned / BASE_MODEL_NAME
    for run in (tuned.parent, tuned.parent.parent):
        if (run / "base").is_dir() and about.is_file():
            is_that = json.loads(about.read_text("utf-8"))["content_hash"] == hash_weights(run / "base")
            return run / "base" if is_that else None
    return None


def plan_opening(address: ModelAddress, folder: Path) -> Opening:
    """What has to be loaded for an address.

    Args:
        address: Of the model.
        folder: Of its base model.

    Raises:
        UserError: `stage-unsupported` for a tuned model that writes no text or is not in the format of its base,
            `model-missing` for one that is not there.
    """
    if address.engine == "onnx":
        if address.tuned is not None and address.tuned.suffix != SUFFIX:
            problem = f"{folder.name} is an exported model, and {_tell(address.tuned)} is no adapter in its format"
            hint = "serve the tuned model on the base that it was trained on, or add it with `kivnun adapters add`"
            raise UserError("stage-unsupported", problem, hint=hint)
        size = sum(path.stat().st_size for path in folder.iterdir() if ".onnx" in path.name)
        return Opening(address, folder, shares_base=True, num_bytes=size, dtype=None)
    shares = address.tuned is None
    if address.tuned is not None:
        _require_text(address.tuned)
        shares = _is_plain_lora(address.tuned)
    weights = count_weights(folder if shares or _is_adapter(address.tuned) else address.tuned or folder)
    dtype = torch.float32 if weights <= MOST_FP32_WEIGHTS else torch.bfloat16
    return Opening(address, folder, shares, int(weights * dtype.itemsize * LOADING_FACTOR), dtype)


def load_rows(opening: Opening) -> RowModel:
    """The model of an address, without its adapter where it shares a base.

    Args:
        opening: What has to be loaded.

    Raises:
        UserError: `model-invalid`, `adapter-invalid`, `stage-unsupported`, `logits-not-finite`.
    """
    if opening.dtype is None:
        # Imported here: ONNX Runtime is loaded by those who need it.
        from kivnun.generation.onnx_rows import OnnxRows  # noqa: PLC0415

        return OnnxRows(opening.folder, name=opening.name)
    tuned = opening.address.tuned
    if opening.shares_base or tuned is None:
        model = move_model(load_model(opening.folder, dtype=opening.dtype), pick_device())
        # Adapters are compared with it; that the file is read now lets the first of them come at once.
        hash_weights(opening.folder)
        return TorchRows(model, name=opening.name, adapters=ManyLora(model, opening.folder))
    whole = move_model(load_tuned(opening.folder, tuned, dtype=opening.dtype), pick_device())
    return TorchRows(whole, name=opening.name)


def read_text_side(opening: Opening) -> TextSide:
    """Tokenizer, template and stop tokens of an address: a tuned model's own ones, where it has some.

    Args:
        opening: Of the address.

    Raises:
        UserError: `model-invalid`.
    """
    own = _own_files(opening)
    tokenizer = load_tokenizer(own if (own / "tokenizer.json").is_file() else opening.folder)
    if (own / CHAT_TEMPLATE_NAME).is_file():
        tokenizer.chat_template = (own / CHAT_TEMPLATE_NAME).read_text("utf-8")
    encoder = Encoder(tokenizer)
    if (own / TEMPLATE_NAME).is_file():
        template = load_template(own)
    elif has_chat_template(own) or has_chat_template(opening.folder):
        template = PromptTemplate("chat")
    else:
        template = PromptTemplate("document", column="text")
    return TextSide(encoder, template, _stop_ids(opening, own, encoder.end_id))


def _own_files(opening: Opening) -> Path:
    """The folder of what an address brings besides its weights."""
    tuned = opening.address.tuned
    if tuned is None:
        return opening.folder
    return tuned.with_suffix("") if tuned.suffix == SUFFIX else tuned


def _stop_ids(opening: Opening, own: Path, end_id: int) -> frozenset[int]:
    """Where answers end: what the run's data ended with, or what the base model says."""
    # A run keeps its model in `model`, and those of its epochs in `epochs/step-000123`.
    for run in (own.parent, own.parent.parent):
        if (run / "dataset" / SUMMARY_NAME).is_file():
            return frozenset(read_summary(run / "dataset")["stop_ids"]) | {end_id}
    if opening.address.tuned is not None and has_adapters(opening.folder):
        return frozenset(read_list(opening.folder).find(own.name, opening.folder).stop_ids)
    return read_stop_ids(own, end_id) | read_stop_ids(opening.folder, end_id)


def _is_adapter(tuned: Path | None) -> bool:
    return tuned is not None and (tuned / CONFIG_NAME).is_file()


def _is_plain_lora(tuned: Path) -> bool:
    """Whether an adapter is nothing but LoRA's matrices, so that it can share its base with others."""
    if not _is_adapter(tuned) or adapter_kind(tuned) != "LORA":
        return False
    config = json.loads((tuned / CONFIG_NAME).read_text("utf-8"))
    return not config.get("use_dora") and not config.get("modules_to_save")


def _require_text(tuned: Path) -> None:
    if not tuned.is_dir():
        problem = f"the tuned model is not where it was written: {_tell(tuned)} is no folder"
        raise UserError("model-missing", problem, hint="tune it again, or bring its folder back")
    head = read_head(tuned)
    if head is not None:
        what = "a classifier, which answers with a label" if head.labels else "an embedding model, which writes no text"
        raise UserError("stage-unsupported", f"{_tell(tuned)} holds {what}", hint="ask a model that was tuned to write")


def _tell(tuned: Path) -> str:
    """A tuned model as clients are told of it: by its job, and not where the server keeps it."""
    return "/".join(tuned.parts[-3:])


def count_weights(folder: Path) -> int:
    """Numbers in a folder's weight files, as their headers say.

    Args:
        folder: Of a model.

    Raises:
        UserError: `model-invalid` where a file is cut.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        except (OSError, ValueError, struct.error, OverflowError, MemoryError) as error:
            hint = "get the model again from where it came"
            problem = f"{folder.name}/{path.name} cannot be read ({type(error).__name__})"
            raise UserError("model-invalid", problem, hint=hint) from error
        total += sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    return total
