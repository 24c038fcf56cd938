"""`kivnun compare`: models on the same rows, with differences, tests, and what broke before what was mended."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kivnun.cli.evaluate import TaskName

if TYPE_CHECKING:
    from kivnun.assessment.compare import Change, ModelComparison, PairReport
    from kivnun.assessment.wanted import Wanted

MAX_SHOWN = 5
LONG_LINE = 160


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="Folders of evaluations, or runs (RUN#base is a run's base); with rows named, any model.",
            show_default=False,
        ),
    ],
    data: Annotated[str | None, typer.Option(help="Evaluate them on this file first.", show_default=False)] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Evaluate them on a recipe's test rows first.", show_default=False)
    ] = None,
    task: Annotated[TaskName | None, typer.Option(help="What is then measured.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Column of a classification's label.", show_default=False)] = None,
    text_template: Annotated[
        str | None, typer.Option(help="Text of a row with fields in braces; the last one is the answer.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What the models are told before each row.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric more; repeatable.", show_default=False)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens; default: 32.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate so many rows, drawn at random.", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace other evaluations in the default folders.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where compare.html goes and ratings lie; default: comparisons/A-vs-B.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Compare each model with the first one on the same rows; a run alone is compared with its base model."""
    given = {"task": task, "label": label, "metrics": tuple(metric or ()), "max_new_tokens": max_new_tokens}
    measured = {name: value for name, value in given.items() if value not in (None, ())}
    if data is not None and recipe is not None:
        raise typer.BadParameter("name the rows with --data or with --recipe, not with both")
    extra = [*measured, *(["text_template"] if text_template else []), *(["limit"] if limit else [])]
    extra += ["instruction"] if instruction else []
    if data is None and recipe is None and extra:
        names = ", ".join(name.replace("_", "-").replace("metrics", "metric") for name in extra)
        raise typer.BadParameter(f"{names}: has no effect without --data or --recipe, since nothing is evaluated")
    from kivnun.assessment.compare import compare_models
    from kivnun.assessment.compare_page import PAGE_NAME, default_comparison_folder, write_comparison
    from kivnun.assessment.sides import read_sides
    from kivnun.cli.output import tell, to_json

    if data is not None or recipe is not None:
        # Loads all that asks models; evaluations that are there are compared without it.
        from kivnun.assessment.wanted import Wanted

        templates = {"text_template": text_template} if text_template else {}
        wanted = Wanted(data, recipe, templates, measured, instruction, limit)
        models = [_evaluated(model, wanted, models, force=force) for model in models]
    sides = read_sides(models)
    folder = out or default_comparison_folder(sides)
    comparison = compare_models(sides, folder=out, seed=seed)
    write_comparison(comparison, folder)
    if as_json:
        sys.stdout.write(to_json({"report": str(folder / PAGE_NAME), **comparison.to_json()}))
    else:
        print_comparison(comparison)
    tell(f"the page is {folder / PAGE_NAME}")


def _evaluated(model: str, wanted: "Wanted", models: Sequence[str], *, force: bool) -> str:
    """The folder of a model's evaluation; it is evaluated now unless that is what was named."""
    from kivnun.assessment.evaluate import evaluate, find_quietly
    from kivnun.assessment.folder import is_evaluation
    from kivnun.assessment.wanted import plan_wanted
    from kivnun.cli.asking_shown import AskingShown
    from kivnun.cli.output import tell
    from kivnun.errors import UserError

    if is_evaluation(Path(model)):
        return model
    runs = [run_dir for each in models if (run_dir := find_quietly(each)) is not None]
    plan = plan_wanted(model, replace(wanted, written_as=runs[0] if runs else None))
    tell(f"evaluating {model.partition('?')[0]} on {len(plan.rows):,} rows in {plan.folder}")
    with AskingShown(sys.stderr) as shown:
        try:
            evaluate(plan, force=force, log=shown.log)
        except KeyboardInterrupt:
            tell("interrupted; answers so far are kept, and the same command goes on from here")
            raise
        except UserError as error:
            if error.code != "file-exists":
                raise
            # Where this evaluation goes cannot be said here: --out is the comparison's folder.
            hint = "evaluate apart with `kivnun evaluate --out`, or replace it with --force; answers are kept"
            raise UserError(error.code, error.problem, hint=hint) from error
    return str(plan.folder)


def print_comparison(comparison: "ModelComparison") -> None:
    """Each model against the first: verdict, regressions, metrics and parts of the rows.

    Args:
        comparison: The comparison.
    """
    from kivnun.cli.output import open_console
    from kivnun.data.visible import make_visible

    console = open_console()
    for pair in comparison.pairs:
        _print_pair(pair, len(comparison.pairs))
    for note in comparison.notes:
        console.print(make_visible(f"note: {note}"), markup=False, soft_wrap=True)


def _print_pair(pair: "PairReport", num_pairs: int) -> None:
    from kivnun.assessment import compare_words as words
    from kivnun.cli.output import open_console
    from kivnun.cli.rate import print_verdicts

    console = open_console()
    lines = [words.say_pair(pair, num_pairs=num_pairs), words.say_changes(pair), *([pair.power] if pair.power else [])]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for change in pair.regressions[:MAX_SHOWN]:
        _print_change(change)
    if len(pair.regressions) > MAX_SHOWN:
        console.print(f"  and {len(pair.regressions) - MAX_SHOWN:,} more regressions, in compare.html", markup=False)
    _print_table(words.metric_columns(pair), words.metric_cells(pair.metrics), 1)
    if pair.slices:
        _print_table(words.slice_columns(pair), words.slice_cells(pair.slices, pair.main.metric), 2)
    if pair.verdicts is not None:
        print_verdicts(pair.verdicts)


def _print_change(change: "Change") -> None:
    from kivnun.cli.output import open_console
    from kivnun.data.visible import isolate, make_visible

    def short(text: str) -> str:
        line = " ".join(text.split())
        return isolate(make_visible(line if len(line) <= LONG_LINE else line[:LONG_LINE] + "..."))

    console = open_console()
    row = change.before.row
    console.print(f"  regression {make_visible(row.where)}: {short(row.prompt)}", markup=False, soft_wrap=True)
    console.print(f"    right: {short(row.references[0])}", markup=False, soft_wrap=True)
    console.print(f"    before: {short(change.before.answer)}", markup=False, soft_wrap=True)
    console.print(f"    now: {short(change.after.answer)}", markup=False, soft_wrap=True)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], first_number: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from kivnun.cli.output import open_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number >= first_number else "left", overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    open_console().print(table)
