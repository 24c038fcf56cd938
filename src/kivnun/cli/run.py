"""`kivnun run`: a recipe from its data file to a verified model."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.errors import EXIT_STATUS, UserError

if TYPE_CHECKING:
    from kivnun.recipe.load import LoadedRecipe
    from kivnun.training.joined import Joined


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.", show_default=False)],
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where results go; default: runs/ and the recipe's name.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check recipe and data, say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
) -> None:
    """Run a recipe; the same words go on after an interruption, and finished stages are not repeated."""
    loaded = _load(recipe, overrides or [])
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        _say_provenance(loaded.provenance, loaded.path)

    from kivnun.cli.progress import Progress
    from kivnun.data.visible import make_visible
    from kivnun.pipeline import follow_recipe, run_recipe
    from kivnun.plan import describe_plan
    from kivnun.runs import default_run_dir, open_run

    folder = run_dir or default_run_dir(recipe)
    if dry_run:
        lines = describe_plan(loaded) if leads else []
        if as_json and leads:
            typer.echo(json.dumps({"plan": lines}, ensure_ascii=False))
            return
        for line in lines:
            typer.echo(make_visible(line))
        return
    try:
        with _join(loaded.recipe.training.parallel) as joined:
            if not joined.parallel.leads:
                follow_recipe(loaded, folder, joined)
                return
            with open_run(folder) as opened, Progress(sys.stderr) as progress:
                results = run_recipe(loaded, opened, show=progress.show, joined=joined)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        sys.stderr.write("interrupted; the same command goes on from here\n")
        raise
    if as_json:
        typer.echo(json.dumps(results.to_json(), ensure_ascii=False))
        return
    from kivnun.cli.summary import print_summary

    print_summary(results)


def _load(path: Path, overrides: list[str]) -> "LoadedRecipe":
    from kivnun.recipe.load import load_recipe, require_data_files

    try:
        loaded = load_recipe(path, overrides)
        require_data_files(loaded)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        # The first process of the machine, to which torchrun gave the same words, says it.
        raise typer.Exit(EXIT_STATUS) from error
    return loaded


def _join(kind: str) -> "AbstractContextManager[Joined]":
    """The processes that torchrun started, or this one by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from kivnun.training.processes import join_processes

        return join_processes(kind)
    from kivnun.training.joined import BY_ITSELF

    return nullcontext(BY_ITSELF)


def _say_provenance(provenance: Mapping[str, str], path: Path) -> None:
    """Say once which values the user chose; everything else is a default, listed by `kivnun recipe check`."""
    chosen = [name for name, source in provenance.items() if source == "--set"]
    note = f", --set {', '.join(chosen)}" if chosen else ""
    num_default = sum(source == "default" for source in provenance.values())
    sys.stderr.write(f"recipe {path}{note}; {num_default} defaults (`kivnun recipe check {path}` lists every value)\n")
