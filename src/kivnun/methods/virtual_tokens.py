"""Prefix tuning and prompt tuning in PEFT's folder format: learned tokens before a model that stays as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kivnun.errors import UserError
from kivnun.methods.adapter import WEIGHTS_NAME, read_files, require_finite
from kivnun.methods.base_model import BaseModelName, write_base_model
from kivnun.methods.saved_modules import find_saved, saved_tensors, train_whole
from kivnun.models.heads import peft_task
from kivnun.models.late_imports import load_peft
from kivnun.models.load import load_tokenizer
from kivnun.models.types import Model
from kivnun.models.virtual_tokens import (
    PrefixTokens,
    PromptTokens,
    VirtualTokens,
    context_tokens,
    key_shape,
    num_layers,
    virtual_tokens_of,
)
from kivnun.recipe.methods import PrefixMethod, PromptMethod

PREFIX, PROMPT = "PREFIX_TUNING", "PROMPT_TUNING"
EMBEDDINGS = "prompt_embeddings"
# Before the name of a module that is trained whole: PEFT wraps a model with virtual tokens only once.
PREFIX_OF_NAMES = "base_model."


@dataclass(frozen=True)
class Prefix:
    """The method `prefix`: learned keys and values before every layer's own."""

    settings: PrefixMethod
    mergeable: ClassVar[bool] = False

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model and put a prefix before it, drawn from a normal distribution as PEFT draws it.

        Raises:
            UserError: `recipe-invalid` where the prefix leaves no room in the model's context.
        """
        require_room(context_tokens(model), self.settings.num_virtual_tokens)
        weight = torch.randn(self.settings.num_virtual_tokens, prefix_size(model), generator=generator)
        _attach(model, PrefixTokens(weight.to(_embeddings(model).device)))

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does, and `base_model.json`.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        heads, head_dim = key_shape(model)
        config = load_peft().PrefixTuningConfig(
            **_common_fields(model, base_model), num_attention_heads=heads, token_dim=heads * head_dim
        )
        _write(model, folder, config, base_model)


@dataclass(frozen=True)
class Prompt:
    """The method `prompt`: learned embeddings before every document."""

    settings: PromptMethod
    mergeable: ClassVar[bool] = False

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Freeze the model and put embeddings before it: those of `init_text`, or of words drawn at random.

        Raises:
            UserError: `recipe-invalid` where they leave no room in the model's context, or the text has more tokens
                than there are embeddings.
        """
        count = self.settings.num_virtual_tokens
        require_room(context_tokens(model), count)
        weight_VC = _embeddings(model)
        if self.settings.init_text is None:
            token_ids = torch.randint(len(weight_VC), (count,), generator=generator)
        else:
            token_ids = torch.tensor(self._text_ids(model, self.settings.init_text))
        _attach(model, PromptTokens(weight_VC[token_ids.to(weight_VC.device)].float()))

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does, and `base_model.json`.

        Raises:
            UserError: `adapter-invalid` where a trained value is not finite.
        """
        config = load_peft().PromptTuningConfig(
            **_common_fields(model, base_model),
            num_attention_heads=model.config.get_text_config().num_attention_heads,
            token_dim=_embeddings(model).shape[1],
        )
        _write(model, folder, config, base_model)

    def _text_ids(self, model: Model, text: str) -> list[int]:
        """The text's tokens, over and over until every embedding has one, as in PEFT."""
        count = self.settings.num_virtual_tokens
        token_ids = cast("list[int]", load_tokenizer(Path(str(model.name_or_path)))(text)["input_ids"])
        if not 0 < len(token_ids) <= count:
            raise UserError(
                "recipe-invalid",
                f"method.init_text: has {len(token_ids)} tokens, and method.num_virtual_tokens is {count}",
                hint=f"shorten the text, or set method.num_virtual_tokens: {max(len(token_ids), 1)}",
            )
        return [token_ids[place % len(token_ids)] for place in range(count)]


def require_room(context_tokens: int | None, num_tokens: int) -> None:
    """Refuse virtual tokens that fill a model's context.

    Args:
        context_tokens: How many tokens the model reads at once; None for no limit.
        num_tokens: How many of them are virtual.

    Raises:
        UserError: `recipe-invalid`.
    """
    if context_tokens is not None and num_tokens >= context_tokens:
        raise UserError(
            "recipe-invalid",
            f"method.num_virtual_tokens: {num_tokens} leaves no room in the model's context of {context_tokens} tokens",
            hint="take far fewer; 20 are usual",
        )


def prefix_size(model: Model) -> int:
    """Numbers of one token of a prefix: a key and a value for every key head of every layer."""
    heads, head_dim = key_shape(model)
    return 2 * num_layers(model) * heads * head_dim


def load_prefix(model: Model, folder: Path) -> Model:
    """Put a PEFT folder of a prefix before a loaded base model, frozen but for it; it is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged or does not fit the model.
    """
    return _load(model, folder, PrefixTokens, prefix_size(model))


def load_prompt(model: Model, folder: Path) -> Model:
    """Put a PEFT folder of embeddings before a loaded base model, frozen but for them; it is changed and returned.

    Raises:
        UserError: `adapter-invalid` where the folder is damaged or does not fit the model.
    """
    return _load(model, folder, PromptTokens, _embeddings(model).shape[1])


def refuse_virtual_tokens(model: Model) -> Model:
    """Refuse to merge a model with virtual tokens; any other is returned as it is.

    Raises:
        UserError: `stage-unsupported`.
    """
    if virtual_tokens_of(model) is not None:
        raise UserError(
            "stage-unsupported",
            "virtual tokens are no change of weights, so they cannot be merged into them",
            hint="remove the optimization section, or train with method.kind: lora",
        )
    return model


def _load(model: Model, folder: Path, kind: Callable[[Tensor], VirtualTokens], size: int) -> Model:
    config, tensors = read_files(folder)
    saved = saved_tensors(model, find_saved(model), prefix=PREFIX_OF_NAMES)
    wanted: dict[str, object] = {key: tuple(tensor.shape) for key, tensor in saved.items()}
    wanted[EMBEDDINGS] = (config.get("num_virtual_tokens"), size)
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if given != wanted:
        raise UserError(
            "adapter-invalid",
            f"{folder}: holds {given}, the base model needs {wanted}",
            hint=f"load it on the model it was trained on: {config.get('base_model_name_or_path')}",
        )
    _attach(model, kind(tensors[EMBEDDINGS].float().to(_embeddings(model).device)))
    with torch.no_grad():
        for key, value in saved_tensors(model, find_saved(model), prefix=PREFIX_OF_NAMES).items():
            value.copy_(tensors[key])
    return model


def _attach(model: Model, virtual: VirtualTokens) -> None:
    """Freeze the model but for the virtual tokens and a head that no base model has."""
    virtual.attach(model)
    train_whole(model, find_saved(model))


def _common_fields(model: Model, base_model: BaseModelName) -> dict[str, object]:
    return {
        "task_type": peft_task(model),
        "base_model_name_or_path": base_model.name,
        "inference_mode": True,
        "num_virtual_tokens": cast("VirtualTokens", virtual_tokens_of(model)).num_tokens,
        "num_layers": num_layers(model),
        "num_transformer_submodules": 1,
    }


def _write(model: Model, folder: Path, config: object, base_model: BaseModelName) -> None:
    weight = cast("VirtualTokens", virtual_tokens_of(model)).weight
    tensors = {EMBEDDINGS: weight, **saved_tensors(model, find_saved(model), prefix=PREFIX_OF_NAMES)}
    require_finite(tensors)
    whole = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    save_file(whole, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    config.save_pretrained(str(folder))  # type: ignore[attr-defined] - a PEFT configuration
    write_base_model(folder, base_model)


def _embeddings(model: Model) -> Tensor:
    return cast("nn.Embedding", model.get_input_embeddings()).weight.detach()
