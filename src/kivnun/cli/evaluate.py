"""`kivnun evaluate`: any model on any rows, with intervals, slices and the worst answers, into a folder."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kivnun.assessment.evaluate import Plan
    from kivnun.assessment.folder import Evaluated
    from kivnun.assessment.wanted import Wanted

TaskName = Literal["classification", "generation", "extraction", "summarisation", "question_answering", "code"]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run, bundled, a folder, a Hugging Face id, openai:MODEL?base_url=ADDRESS or anthropic:MODEL.",
            show_default=False,
        ),
    ],
    data: Annotated[str | None, typer.Option(help="A file of rows, all of them evaluated.", show_default=False)] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The test rows and the evaluation section of a recipe.", show_default=False)
    ] = None,
    task: Annotated[TaskName | None, typer.Option(help="What is measured.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Column of a classification's label.", show_default=False)] = None,
    references: Annotated[
        str | None, typer.Option(help="Column with further right answers, a JSON list.", show_default=False)
    ] = None,
    text_template: Annotated[
        str | None, typer.Option(help="Text of a row with fields in braces; the last one is the answer.")
    ] = None,
    prompt_template: Annotated[str | None, typer.Option(help="Text of the prompt, with fields in braces.")] = None,
    answer_template: Annotated[str | None, typer.Option(help="Text of the right answer; with the former.")] = None,
    instruction: Annotated[str | None, typer.Option(help="What the model is told before each row.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric more; repeatable.", show_default=False)] = None,
    json_schema: Annotated[str | None, typer.Option(help="A JSON Schema that answers should keep.")] = None,
    slice_by: Annotated[
        list[str] | None, typer.Option("--slice", help="A column whose values are scored apart; repeatable.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer in tokens; 32 if not given.", min=1)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate so many rows, drawn at random.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw and the intervals.", min=0, show_default=False)] = None,
    leave_out_leaked: Annotated[
        bool, typer.Option("--leave-out-leaked", help="Leave out rows that the run was trained on.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default: evaluations/<model>-<data>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another evaluation in that folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing; say what it would take.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Ask a model every row and score its answers; without --data and --recipe, the test rows of a run.

    Answers are kept as they come: after an interruption the same command goes on.
    """
    if data is not None and recipe is not None:
        raise typer.BadParameter("name the rows with --data or with --recipe, not with both")
    if (prompt_template is None) != (answer_template is None):
        raise typer.BadParameter("--prompt-template and --answer-template belong together")
    from kivnun.assessment.wanted import Wanted

    templates = {"text_template": text_template, "prompt_template": prompt_template, "answer_template": answer_template}
    measured = {
        "task": task,
        "label": label,
        "references": references,
        "metrics": tuple(metric or ()),
        "json_schema": json_schema,
        "slices": tuple(slice_by or ()),
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    wanted = Wanted(
        data, recipe, _given(templates), _given(measured), instruction, limit, out, leave_out_leaked=leave_out_leaked
    )
    _evaluate(model, wanted, force=force, dry_run=dry_run, as_json=as_json)


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value not in (None, ())}


def _evaluate(model: str, wanted: "Wanted", *, force: bool, dry_run: bool, as_json: bool) -> None:
    from kivnun.assessment.evaluate import evaluate as evaluate_rows
    from kivnun.assessment.wanted import plan_wanted
    from kivnun.cli.asking_shown import AskingShown
    from kivnun.cli.output import tell, to_json

    plan = plan_wanted(model, wanted)
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    with AskingShown(sys.stderr) as shown:
        try:
            evaluated = evaluate_rows(plan, force=force, log=shown.log)
        except KeyboardInterrupt:
            tell("interrupted; answers so far are kept, and the same command goes on from here")
            raise
    if as_json:
        value = {"folder": str(plan.folder), "model": evaluated.name, **evaluated.scores_json()}
        sys.stdout.write(to_json(value))
    else:
        print_evaluation(evaluated)
    tell(f"rows, scores and report.html are in {plan.folder}")


def _show_plan(plan: "Plan", *, as_json: bool) -> None:
    from kivnun.asking.spec import EndpointSpec, parse_spec
    from kivnun.assessment.spending import expect_usage, price_usage
    from kivnun.cli.output import tell, to_json
    from kivnun.data.visible import make_visible

    usage = expect_usage(plan.requests, plan.section.max_new_tokens)
    found = parse_spec(plan.spec) if plan.is_endpoint else None
    if isinstance(found, EndpointSpec):
        usage = price_usage(usage, found.model)
    first = plan.requests[0]
    if as_json:
        value = {
            "folder": str(plan.folder),
            "num_rows": len(plan.rows),
            "prompt_tokens": usage.prompt_tokens,
            "most_completion_tokens": usage.completion_tokens,
            "most_dollars": usage.dollars,
            "price_note": usage.price_note,
            "first": {"messages": first.messages, "text": first.text},
            "notes": list(plan.questions.notes),
        }
        sys.stdout.write(to_json(value))
        return
    for note in plan.questions.notes:
        tell(note)
    typer.echo(
        f"{len(plan.rows):,} rows, about {usage.prompt_tokens:,} tokens read and at most {usage.completion_tokens:,} "
        "written; nothing is asked"
    )
    if plan.is_endpoint:
        cost = f"at most about ${usage.dollars:,.4f}" if usage.dollars is not None else "cost unknown"
        typer.echo(make_visible(f"{cost} ({usage.price_note})"))
    typer.echo("the first request:")
    for role, text in first.messages:
        typer.echo("\n".join(make_visible(line) for line in f"[{role}] {text}".split("\n")))


def print_evaluation(evaluated: "Evaluated") -> None:
    """Scores and parts of the rows as tables, and notes.

    Args:
        evaluated: The evaluation.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from kivnun.assessment.page import list_facts
    from kivnun.cli.output import open_console
    from kivnun.data.visible import isolate, make_visible
    from kivnun.evaluation.wording import say_interval, say_metric, say_metric_name

    console = open_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", "value", "95 % interval"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, estimate in evaluated.metrics.items():
        table.add_row(say_metric_name(name), say_metric(name, estimate.value), say_interval(name, estimate))
    console.print(make_visible(f"{isolate(evaluated.name)}: {len(evaluated.rows):,} rows"), markup=False)
    console.print(table)
    if evaluated.slices:
        parts = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("by", "part", "rows", say_metric_name(evaluated.main), "95 % interval"):
            parts.add_column(name, justify="left" if name in ("by", "part") else "right", overflow="fold")
        for part in evaluated.slices:
            value, interval = say_metric(evaluated.main, part.score.value), say_interval(evaluated.main, part.score)
            names = [Text(isolate(part.by)), Text(isolate(part.value))]
            parts.add_row(*names, f"{part.num_rows:,}", value, interval)
        console.print(parts)
    for fact in list_facts(evaluated):
        if fact.name in ("tokens", "kept ready", "cost"):
            console.print(make_visible(f"{fact.name}: {fact.value}"), markup=False)
    for note in evaluated.notes:
        console.print(make_visible(f"note: {note}"), markup=False, soft_wrap=True)
