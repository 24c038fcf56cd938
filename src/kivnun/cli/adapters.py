"""`kivnun generate-adapter` and `kivnun adapters`: one exported model with adapters that requests choose between."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kivnun.generation.adapter_list import AdapterList
    from kivnun.optimization.forms import Form

app = typer.Typer(
    name="adapters",
    help="Add adapters to a model that `kivnun generate-adapter` made, remove and list them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(help="The folder of the model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
PATHS_HELP = "Adapter or run folders, with commas between them; NAME=FOLDER gives a name. May be given several times."


def generate_adapter(
    base_model_path: Annotated[
        str,
        typer.Option(
            "--base_model_path",
            "--base-model-path",
            help="The base model: a folder, a Hugging Face id, or `bundled`.",
            show_default=False,
        ),
    ],
    adapter_paths: Annotated[
        list[str], typer.Option("--adapter_paths", "--adapter-paths", help=PATHS_HELP, show_default=False)
    ],
    output_path: Annotated[
        Path,
        typer.Option("--output_path", "--output-path", help="The folder to make.", show_default=False),
    ],
    precision: Annotated[
        Literal["fp32", "int8", "int4"], typer.Option(help="Number format of the base model's weights.")
    ] = "int4",
    block_size: Annotated[
        Literal["auto", "16", "32", "64", "128", "256"],
        typer.Option("--block-size", "--block_size", help="Weights that share one scale; auto: as they fit."),
    ] = "auto",
    adapter_type: Annotated[
        str, typer.Option("--adapter_type", "--adapter-type", help="lora, the only kind that is shared.")
    ] = "lora",
    adapter_format: Annotated[
        str, typer.Option("--adapter_format", "--adapter-format", help="onnx_adapter, the runtime's own.")
    ] = "onnx_adapter",
    as_json: AsJson = False,
) -> None:
    """Export a base model once, with LoRA adapters that each request may choose between."""
    if adapter_type != "lora":
        raise typer.BadParameter(f"--adapter_type: {adapter_type} adapters cannot be shared; write lora")
    if adapter_format != "onnx_adapter":
        raise typer.BadParameter(f"--adapter_format: {adapter_format} is not written; write onnx_adapter")
    if precision == "fp32" and block_size != "auto":
        raise typer.BadParameter("--block-size has no effect on fp32, whose weights share no scale")
    from kivnun.models.resolve import resolve_model
    from kivnun.optimization.adapter_sources import find_sources
    from kivnun.optimization.adapters import make_adapter_model

    sources = find_sources(_split(adapter_paths))
    base = resolve_model(base_model_path)
    form = _plan(base.folder, precision, block_size)
    made = make_adapter_model(base, sources, output_path, form, log=_Shown().show)
    _print(output_path, made, as_json=as_json)


@app.command()
def add(
    folder: Folder,
    adapter_paths: Annotated[list[str], typer.Argument(metavar="ADAPTER...", help=PATHS_HELP, show_default=False)],
    base_model_path: Annotated[
        str | None,
        typer.Option(
            "--base_model_path",
            "--base-model-path",
            help="The base model, if it is no longer where it was.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add adapters; the base model and the other adapters stay as they are."""
    from kivnun.optimization.adapter_sources import find_sources
    from kivnun.optimization.adapters import add_adapters

    made = add_adapters(folder, find_sources(_split(adapter_paths)), base_model=base_model_path, log=_Shown().show)
    _print(folder, made, as_json=as_json)


@app.command()
def remove(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The adapter.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Remove an adapter; the base model and the other adapters stay as they are."""
    from kivnun.optimization.adapters import remove_adapter

    _print(folder, remove_adapter(folder, name), as_json=as_json)


@app.command("list")
def list_adapters(folder: Folder, as_json: AsJson = False) -> None:
    """List the adapters of a model."""
    from kivnun.generation.adapter_list import read_list

    _print(folder, read_list(folder), as_json=as_json)


def _split(items: list[str]) -> list[str]:
    return [part.strip() for item in items for part in item.split(",")]


def _plan(folder: Path, precision: str, block_size: str) -> "Form":
    from kivnun.optimization.architectures import exportable_forms
    from kivnun.recipe.optimization import OptimizationSection

    size = "auto" if block_size == "auto" else int(block_size)
    settings = OptimizationSection.model_validate({"precision": precision, "block_size": size})
    return exportable_forms(folder, settings)[0]


class _Shown:
    """What is said on standard error while adapters are made: the export's share now and then, each adapter."""

    def __init__(self) -> None:
        self._started = self._said_at = time.monotonic()

    def show(self, event: str, fields: Mapping[str, object]) -> None:
        """Show one event."""
        from kivnun.cli.output import tell
        from kivnun.cli.progress import PLAIN_LINE_SECONDS, say_seconds
        from kivnun.evaluation.wording import say_size

        now = time.monotonic()
        if event == "exporting" and now - self._said_at >= PLAIN_LINE_SECONDS:
            share = int(str(fields["done"])) / int(str(fields["total"]))
            left = say_seconds((now - self._started) * (1 - share) / share)
            tell(f"exporting the base model: {share:.0%}, {left} left")
            self._said_at = now
        elif event == "adapter_prepared":
            tell(f"{fields['name']}: rank {fields['rank']} on {fields['layers']} layers fits the base model")
            # Only now the export begins.
            self._started = now
        elif event == "adapter_added":
            size, agreement = say_size(int(str(fields["size_bytes"]))), float(str(fields["agreement"]))
            tell(f"{fields['name']}: added, {size}; chooses {agreement:.1%} of the torch model's tokens")


def _print(folder: Path, adapters: "AdapterList", *, as_json: bool) -> None:
    from kivnun.evaluation.wording import say_size

    if as_json:
        from dataclasses import asdict

        from kivnun.cli.output import to_json

        sys.stdout.write(to_json({"folder": str(folder), **asdict(adapters)}))
        return
    sys.stdout.write(f"{folder}: {adapters.form} of {adapters.base_model}, {len(adapters.adapters)} adapter(s)\n")
    for each in adapters.adapters:
        same = f"{each.identical}/{each.prompts} answers as in torch, {each.token_agreement:.1%} of the tokens"
        layers = f"rank {each.rank} on {each.layers} layers ({', '.join(each.targets)})"
        sys.stdout.write(f"  {each.name}: {layers}, {say_size(each.size_bytes)}, {same}; from {each.source}\n")
    if adapters.adapters:
        sys.stdout.write(f'Ask one: kivnun generate {folder} --adapter {adapters.names[0]} "..."\n')
