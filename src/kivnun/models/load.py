"""Model and tokenizer folders in, checked: no missing weight, no value that is not finite, no foreign code."""

import io
import logging
from contextlib import redirect_stderr
from pathlib import Path
from typing import Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils import logging as transformers_logging

from kivnun.errors import UserError
from kivnun.models.types import Model, Tokenizer

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What the libraries raise on files that are cut, of another format or of an architecture they do not know.
_LOAD_ERRORS = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def quiet_libraries() -> None:
    """Silence progress bars and notices of the model libraries: Kivnun shows its own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


ModelKind = Literal["causal language model", "base model without a head", "classifier"]
_AUTO_CLASSES = {
    "causal language model": AutoModelForCausalLM,
    "base model without a head": AutoModel,
    "classifier": AutoModelForSequenceClassification,
}


def load_model(
    folder: Path, *, dtype: torch.dtype, kind: ModelKind = "causal language model", may_lack: str | None = None
) -> Model:
    """A model in evaluation mode.

    Args:
        folder: Its folder.
        dtype: Number format of its weights.
        kind: What it is loaded as.
        may_lack: Beginning of the names of weights that may be missing, because the caller does not use them.

    Raises:
        UserError: `model-invalid` where weights are missing, not finite or of another architecture.
    """
    quiet_libraries()
    try:
        model, notes = _AUTO_CLASSES[kind].from_pretrained(  # pyright: ignore
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except _LOAD_ERRORS as error:
        raise UserError(
            "model-invalid",
            f"{folder}: cannot be loaded as a {kind}: {_first_line(error)}",
            hint="the folder must hold config.json and whole *.safetensors of an architecture that transformers knows",
        ) from error
    missing = sorted(name for name in notes["missing_keys"] if may_lack is None or not name.startswith(may_lack))
    if missing:
        raise UserError(
            "model-invalid",
            f"{folder}: {len(missing)} weight(s) are missing and would be random: {', '.join(missing[:3])}",
            hint="use the whole model folder, not an adapter or a part of it",
        )
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise UserError(
            "model-invalid",
            f"{folder}: {len(broken)} weight(s) hold NaN or infinite values: {', '.join(broken[:3])}",
            hint="get the model again from where it came; training cannot mend it",
        )
    return model.eval()


def load_gguf(path: Path) -> Model:
    """A GGUF file as a model in float32 and evaluation mode: its weights with the values that they are rounded to.

    Args:
        path: The file. A `config.json` beside it says what transformers does not read from the file, such as the
            scaling of rotary positions: without it the logits would be others, without a word.

    Raises:
        UserError: `model-invalid` where it cannot be read or is of an architecture that transformers does not read.
    """
    quiet_libraries()
    try:
        # Its own progress bar knows no other way to be silent.
        with redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                config=AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
            )
    except _LOAD_ERRORS as error:
        raise UserError(
            "model-invalid",
            f"{path}: cannot be loaded: {_first_line(error)}",
            hint="the file must be whole and of an architecture that transformers reads, such as llama or qwen3",
        ) from error
    return cast("Model", model).eval()


def load_tokenizer(folder: Path) -> Tokenizer:
    """A fast tokenizer with an end-of-text token; a model without a chat template gets ChatML's.

    Raises:
        UserError: `model-invalid` where there is none, or none with an end-of-text token.
    """
    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(
            "model-invalid",
            f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}",
            hint="the folder must hold tokenizer.json or what it is made from",
        ) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(
            "model-invalid",
            f"{folder}: the tokenizer has no {'end-of-text token' if tokenizer.is_fast else 'fast form'}",
            hint="set eos_token in tokenizer_config.json: without it an answer could never end",
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenizer


def model_config(folder: Path) -> PreTrainedConfig:
    """A model folder's config.json.

    Raises:
        UserError: `model-invalid` where it cannot be read or names an architecture that transformers does not know.
    """
    quiet_libraries()
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(
            "model-invalid",
            f"{folder / 'config.json'}: cannot be read: {_first_line(error)}",
            hint="get config.json again from where the model came; it must be of a kind that transformers knows",
        ) from error


def model_config_value(folder: Path, name: str) -> object:
    """One value of a model folder's config.json, such as `hidden_size`; None where it has none.

    Raises:
        UserError: `model-invalid`, as `model_config`.
    """
    return getattr(model_config(folder), name, None)


def move_model(model: Model, device: torch.device) -> Model:
    """The model on a device; transformers types its own `to` as if it took none."""
    return cast("Model", nn.Module.to(model, device))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
