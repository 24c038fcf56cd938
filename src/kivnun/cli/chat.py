"""`kivnun generate` and `kivnun chat`: use what a run made."""

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kivnun.assistant import Assistant

RunName = Annotated[
    str,
    typer.Argument(help="The run: its name or its folder; or a model that adapters share.", show_default=False),
]
AdapterName = Annotated[
    str | None,
    typer.Option("--adapter", help="Which adapter answers, of a model that several share.", show_default=False),
]


class EngineName(StrEnum):
    """Which form of the model answers."""

    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


Chosen = Annotated[EngineName, typer.Option(help="onnx: the exported model; torch: what was trained.")]
Temperature = Annotated[float, typer.Option(help="0 takes the best token; higher is more varied.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)]
System = Annotated[str | None, typer.Option(help="System message, as in the training data, for chat models.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.")]


def generate(
    run: RunName,
    prompt: Annotated[list[str], typer.Argument(help="The text, or one value per field of the template.")],
    engine: Chosen = EngineName.AUTO,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    system: System = None,
    seed: Seed = 0,
    adapter: AdapterName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print prompt, answer and engine as JSON.")] = False,
) -> None:
    """Answer one prompt, written as in training: for a template with several fields give them in order.

    A classifier answers with its label and the label's probability.
    """
    if _is_classifier(run):
        if temperature or engine is not EngineName.AUTO or adapter is not None:
            raise typer.BadParameter(
                "--temperature, --engine and --adapter belong to models that write text; this is a classifier"
            )
        _classify(run, prompt, system, as_json=as_json)
        return
    assistant = _open(run, engine, system, adapter)
    text = assistant.render(prompt)
    stream = assistant.stream(text, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    if as_json:
        answer = "".join(stream)
        typer.echo(json.dumps({"prompt": text, "answer": answer, "engine": assistant.engine.name}, ensure_ascii=False))
        return
    for piece in stream:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def chat(
    run: RunName,
    engine: Chosen = EngineName.AUTO,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    system: System = None,
    seed: Seed = 0,
    adapter: AdapterName = None,
) -> None:
    """Talk to the model line by line; an empty line or Ctrl-D ends it."""
    assistant = _open(run, engine, system, adapter)
    sys.stderr.write(f"{assistant.describe()}; an empty line ends the chat\n")
    history: list[tuple[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            break
        if not line:
            break
        pieces: list[str] = []
        text = assistant.render_turn(history, line)
        for piece in assistant.stream(text, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        history.append((line, "".join(pieces)))


def _classify(run: str, prompt: list[str], system: str | None, *, as_json: bool) -> None:
    from kivnun.assistant import open_headed, render_prompt
    from kivnun.runs import find_run

    classifier = open_headed(find_run(run), "classification")
    text = render_prompt(classifier.template, classifier.encoder, prompt, system=system)
    [probabilities] = classifier.classify([text])
    label = max(probabilities, key=probabilities.__getitem__)
    if as_json:
        answer = {"prompt": text, "label": label, "probability": probabilities[label], "probabilities": probabilities}
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    typer.echo(f"{label}  {probabilities[label]:.1%}")


def _is_shared(run: str) -> bool:
    """Whether this is a model that adapters share, and no run."""
    from pathlib import Path

    from kivnun.generation.adapter_list import has_adapters

    return has_adapters(Path(run))


def _is_classifier(run: str) -> bool:
    from kivnun.assistant import is_classifier
    from kivnun.runs import find_run

    return not _is_shared(run) and is_classifier(find_run(run))


def _open(run: str, engine: EngineName, system: str | None, adapter: str | None) -> "Assistant":
    from dataclasses import replace
    from pathlib import Path

    from kivnun.assistant import open_assistant, open_shared
    from kivnun.runs import find_run

    if _is_shared(run):
        if engine is EngineName.TORCH:
            raise typer.BadParameter("--engine torch: a model that adapters share is an exported one")
        return replace(open_shared(Path(run), adapter), system=system)
    if adapter is not None:
        raise typer.BadParameter(f"--adapter: {run} is a run, whose model has no adapters to choose between")
    assistant = open_assistant(find_run(run), None if engine is EngineName.AUTO else engine.value)
    return replace(assistant, system=system)
