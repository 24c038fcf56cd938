"""Who writes: a model behind an OpenAI-compatible endpoint, or one on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.assistant import Assistant, open_assistant
from kivnun.data.encode import Encoder
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.generation.endpoint import open_endpoint
from kivnun.generation.torch_engine import TorchEngine
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.runs import find_run

Ask = Callable[[Sequence[tuple[str, str]], int], str]
"""Messages as (role, text) and a seed -> the answer's text."""


@dataclass(frozen=True)
class Writer:
    """A model that writes new rows.

    Attributes:
        name: The model.
        place: The endpoint's address, or "this machine".
        ask: Asks it.
        parallel: How many questions it may be asked at once.
    """

    name: str
    place: str
    ask: Ask
    parallel: int


def endpoint_writer(
    base_url: str, model: str, *, key_variable: str, temperature: float, max_new_tokens: int, parallel: int
) -> Writer:
    """A model behind an OpenAI-compatible endpoint; retries with growing pauses are the SDK's.

    Args:
        base_url: The endpoint, up to and with `/v1`.
        model: The model's name there.
        key_variable: Environment variable that holds the key; the key is never written anywhere.
        temperature: Of the sampling.
        max_new_tokens: Longest answer in tokens.
        parallel: How many requests run at once.

    Raises:
        UserError: `dependency-missing` without the openai package. `ask` raises `endpoint-failed`.
    """
    endpoint = open_endpoint(base_url, key_variable=key_variable)
    # It is installed: the line above refuses to go on without it.
    from openai import OpenAIError  # noqa: PLC0415 - an extra
    from openai.types.chat import ChatCompletion  # noqa: PLC0415 - see above

    def ask(messages: Sequence[tuple[str, str]], seed: int) -> str:
        try:
            answer = endpoint.client.chat.completions.create(
                model=model,
                messages=[{"role": role, "content": text} for role, text in messages],  # type: ignore[misc]
                temperature=temperature,
                max_tokens=max_new_tokens,
                seed=seed,
            )
        except (OpenAIError, ValueError) as error:
            hint = f"check the address, --model {model} and the key in ${key_variable}; answers so far are kept"
            raise endpoint.failed(error, hint) from error
        if not isinstance(answer, ChatCompletion):
            raise UserError(
                "endpoint-failed",
                f"{endpoint.place} answered something that is no chat completion",
                hint="the address ends in /v1 most often; answers so far are kept",
            )
        return (answer.choices[0].message.content if answer.choices else None) or ""

    return Writer(model, endpoint.place, ask, parallel)


def local_writer(name: str, *, temperature: float, max_new_tokens: int) -> Writer:
    """A run, or a model of its own, on this machine.

    Args:
        name: A run's name or folder, `bundled`, a model folder or a Hugging Face id.
        temperature: Of the sampling.
        max_new_tokens: Longest answer in tokens.

    Raises:
        UserError: `run-missing`, `model-missing`, or `stage-unsupported` for a model that is no chat model.
    """
    assistant = _open(name)
    if assistant.template.kind != "chat":
        raise UserError(
            "stage-unsupported",
            f"{name} answers one kind of prompt only, and cannot be told to write rows",
            hint="name a chat model with --local, or an --endpoint",
        )

    def ask(messages: Sequence[tuple[str, str]], seed: int) -> str:
        turns: list[Mapping[str, str]] = [{"role": role, "content": text} for role, text in messages]
        prompt = assistant.encoder.render_chat(turns, open_turn=True)
        pieces = assistant.stream(prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return "".join(pieces)

    return Writer(name, "this machine", ask, 1)


def _open(name: str) -> Assistant:
    if any((folder / "recipe.yaml").is_file() for folder in (Path(name), Path("runs") / name)):
        return open_assistant(find_run(name), None)
    folder = resolve_model(name).folder
    encoder = Encoder(load_tokenizer(folder))
    model = load_model(folder, dtype=torch.float32)
    # Chat models end a turn with another token than a text, which their generation_config.json names.
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    stop_ids = {encoder.end_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}
    return Assistant(TorchEngine(model, pad_id=encoder.end_id), encoder, PromptTemplate("chat"), frozenset(stop_ids))
