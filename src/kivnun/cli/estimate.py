"""`kivnun estimate`: tokens, minutes on this machine, memory for each method, and hosted prices, before a run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kivnun.estimate.estimate import Estimate, MethodEstimate
    from kivnun.recipe.load import LoadedRecipe

GIB = 2**30


def estimate(
    data: Annotated[str | None, typer.Argument(help="A recipe, or data to train on.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="The base model, where data is given.")] = "bundled",
    seconds: Annotated[float, typer.Option(help="Seconds of training steps for each method.", min=0.1)] = 5.0,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Whether training steps are run.")] = True,
    prices: Annotated[Path | None, typer.Option(help="A price table of your own.", show_default=False)] = None,
    hosted_tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json to count hosted tokens with.", show_default=False)
    ] = None,
    write_prices: Annotated[
        Path | None, typer.Option(help="Write the price table to a file, to be edited, and leave.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
) -> None:
    """Say what a training would cost: tokens, minutes here (measured), memory by method, and hosted prices."""
    if write_prices is not None:
        _write_prices(write_prices)
        return
    if data is None:
        raise typer.BadParameter("name a recipe, or data to train on")
    from kivnun.estimate.estimate import EstimateOptions, estimate_recipe

    loaded = _load(data, model, overrides or [])
    options = EstimateOptions(seconds if measure else 0.0, prices, hosted_tokenizer)
    result = estimate_recipe(loaded, options, show=_say)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    _print(result)


def _load(data: str, model: str, overrides: list[str]) -> "LoadedRecipe":
    from kivnun.recipe.from_data import recipe_for_data
    from kivnun.recipe.load import load_recipe, require_data_files

    if data.endswith((".yaml", ".yml")):
        loaded = load_recipe(Path(data), overrides)
        require_data_files(loaded)
        return loaded
    return recipe_for_data(data, model, overrides)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _write_prices(path: Path) -> None:
    from kivnun.cli.files import write_named
    from kivnun.prices import SHIPPED

    write_named(path, SHIPPED.read_text("utf-8"), may_replace=False, hint="name a file that does not exist")
    sys.stderr.write(f"wrote {path}\n")


def _print(result: "Estimate") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    # A head learns from whole texts, not token by token.
    learnt = f" ({result.trained_tokens:,} learnt)" if result.trained_tokens else ""
    console.print(
        f"{result.rows:,} rows, {result.tokens:,} tokens{learnt}, {_say_epochs(result)}: "
        f"{result.num_steps:,} steps, {result.planned_tokens:,} tokens to read with {result.base_model}"
    )
    for reason, count in result.dropped.items():
        console.print(f"{count:,} rows are left out: {reason}")
    table = Table(title=f"On this machine ({result.device}, {result.memory_bytes / GIB:.1f} GiB)", title_justify="left")
    for name in ("method", "trained", "memory needed", "memory measured", "tokens/s", "time"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method in result.methods:
        table.add_row(*_method_cells(method))
    console.print(table)
    console.print(
        "time: training alone, without evaluation and export; in brackets at the fastest and slowest step's rate"
    )
    if result.hosted:
        _print_hosted(console, result)


def _say_epochs(result: "Estimate") -> str:
    passes = result.planned_tokens / max(result.tokens, 1)
    if passes >= 0.99 * result.epochs:
        return f"{result.epochs:g} epochs"
    return f"{passes:.2g} of {result.epochs:g} epochs (training.max_steps ends it; hosted prices are for all)"


def _method_cells(method: "MethodEstimate") -> list[str]:
    need, measured = method.need, method.measured
    cells = [method.method, f"{need.trained_parameters:,}", f"{need.total / GIB:.2f} GiB"]
    if measured is None or method.seconds is None:
        return [*cells, "-", "-", method.not_measured]
    expected, least, most = map(_say_time, method.seconds)
    return [
        *cells,
        f"{measured.peak_bytes / GIB:.2f} GiB",
        f"{1 / measured.seconds_per_token:,.0f}",
        f"{expected} ({least} to {most})",
    ]


def _print_hosted(console: "object", result: "Estimate") -> None:
    from rich.table import Table

    table = Table(title=f"At hosted services (list prices of {result.prices_as_of})", title_justify="left")
    for name in ("service", "model", "billed tokens", "training", "in / out per 1M"):
        table.add_column(name, justify="left" if name in {"service", "model"} else "right")
    for price in result.hosted:
        cut = f" ({price.num_cut} rows cut)" if price.num_cut else ""
        use = f"${price.input_price:,.2f} / ${price.output_price:,.2f}"
        table.add_row(price.service, price.model, f"{price.billed_tokens:,}{cut}", f"${price.dollars:,.2f}", use)
    console.print(table)  # type: ignore[attr-defined]
    console.print(f"counted with {result.counted_with}; prices from {result.prices}", soft_wrap=True)  # type: ignore[attr-defined]
    if result.prices_are_old:
        console.print("the prices are older than half a year: compare them, and keep your own with --write-prices")  # type: ignore[attr-defined]


def _say_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
