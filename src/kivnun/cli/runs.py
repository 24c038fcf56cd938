"""`kivnun runs`: list, compare and plot what was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.cli.output import tell, to_json

if TYPE_CHECKING:
    from kivnun.runs.overview import RunOverview

app = typer.Typer(invoke_without_command=True, help="List, compare and plot runs.")

RUNS = Path("runs")
DEFAULT_PLOT = Path("curves.html")
OVERWRITE_HINT = "name another file with --out, or add --force to overwrite it"

RunNames = Annotated[list[str], typer.Argument(help="Runs, such as `tone` or `runs/tone`.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.callback()
def runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--folder", help="Where the runs are.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """List the runs, the latest first; those that cannot be read are listed as such."""
    if context.invoked_subcommand is not None:
        if folder != RUNS or as_json:
            verb = context.invoked_subcommand
            raise typer.BadParameter(f"--folder and --json before {verb} belong to the list; name runs by their paths")
        return
    from kivnun.runs.overview import list_runs, list_searches

    found = list_runs(folder)
    for name in list_searches(folder):
        tell(f"{name} is a search: `kivnun runs --folder {folder}/{name}/trials` lists its trials")
    if as_json:
        typer.echo(to_json([run.to_json() for run in found]), nl=False)
        return
    if not found:
        tell(f"there are no runs in {folder}; `kivnun run` with a recipe makes one")
        return
    from kivnun.cli.runs_table import print_overviews

    print_overviews(found)
    _tell_problems(found)


@app.command()
def compare(names: RunNames, as_json: AsJson = False) -> None:
    """Put runs side by side: settings that differ, what each reached, and whether a difference is real."""
    from kivnun.comparison import compare_runs
    from kivnun.runs import find_run

    if len(names) < 2:
        raise typer.BadParameter("name two runs or more")
    comparison = compare_runs([find_run(name) for name in names])
    if as_json:
        typer.echo(to_json(comparison.to_json()), nl=False)
        return
    from kivnun.cli.runs_comparison import print_comparison

    print_comparison(comparison)
    _tell_problems(comparison.runs)


@app.command()
def plot(
    names: RunNames,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file: .html, .svg or .png.")] = DEFAULT_PLOT,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Draw the curves of runs: losses, and what was measured on the validation rows."""
    from kivnun.cli.files import write_named
    from kivnun.evaluation.run_plots import RunCurves, draw_png, draw_runs, render_page
    from kivnun.runs import find_run, read_events
    from kivnun.runs.follow import read_story
    from kivnun.runs.overview import name_run
    from kivnun.runs.store import EVENTS_NAME

    forms = {".html": render_page, ".svg": draw_runs, ".png": draw_png}
    draw = forms.get(out.suffix.lower())
    if draw is None:
        raise typer.BadParameter(f"{out} must end in .html, .svg or .png", param_hint="--out")
    folders = [find_run(name) for name in names]
    curves = [RunCurves(name_run(folder), read_story(read_events(folder / EVENTS_NAME)).curves()) for folder in folders]
    for run in curves:
        if not run.curves:
            tell(f"{run.name} has no training step yet: it is not in the picture")
    write_named(out, draw(curves), may_replace=force, hint=OVERWRITE_HINT)
    tell(f"wrote {out}")


def _tell_problems(found: "Sequence[RunOverview]") -> None:
    """Why runs failed or cannot be read; a table has no room for it."""
    for run in found:
        if run.problem:
            tell(f"{run.folder}: {run.problem}")
