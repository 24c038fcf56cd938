"""`kivnun enrich`: new rows from a model, checked, de-duplicated, kept away from the test rows, with their origin."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kivnun.enrichment.asking import Question
    from kivnun.enrichment.enrich import EnrichOptions, EnrichResult
    from kivnun.enrichment.rows import EnrichRows
    from kivnun.enrichment.writers import Writer


def enrich(
    data: Annotated[str, typer.Argument(help="A file, folder or data set id.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The file to write; its ending chooses the layout.", show_default=False)],
    kind: Annotated[
        Literal["paraphrase", "example"], typer.Option(help="Say rows in other ways, or make new ones like them.")
    ] = "paraphrase",
    number: Annotated[int, typer.Option(help="New rows asked for in one question.", min=1, max=50)] = 2,
    questions: Annotated[
        int | None, typer.Option(help="Questions; default: every row once, or one.", min=1, show_default=False)
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="An OpenAI-compatible address.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.", show_default=False)] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    local: Annotated[str | None, typer.Option(help="A run or model on this machine.", show_default=False)] = None,
    against: Annotated[list[str] | None, typer.Option(help="Held-out data; repeatable.", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(help="An allowed answer; repeatable.", show_default=False)] = None,
    wishes: Annotated[str, typer.Option(help="A sentence that is added to every question.")] = "",
    temperature: Annotated[float, typer.Option(help="Of the sampling.", min=0.0, max=2.0)] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 1024,
    parallel: Annotated[int, typer.Option(help="Requests at once.", min=1, max=64)] = 4,
    seed: Annotated[int, typer.Option(help="Chooses examples, and goes to the model.", min=0)] = 0,
    from_format: Annotated[str | None, typer.Option("--from", help="The rows' format.", show_default=False)] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a table: the column read.", show_default=False)] = None,
    answer: Annotated[str | None, typer.Option(help="Of a table: the column learnt.", show_default=False)] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Leave out the rows that were there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nothing; show the first question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Ask a model for more rows; answers are kept, so that the same command goes on after an interruption."""
    from kivnun.cli.files import require_free
    from kivnun.cli.output import tell
    from kivnun.enrichment.enrich import EnrichOptions, plan_questions
    from kivnun.enrichment.rows import read_enrich_rows

    if not dry_run:
        require_free(out, data, force=force)
    read = read_enrich_rows(data, against or [], wanted=from_format, prompt=prompt, answer=answer)
    for note in read.notes:
        tell(note)
    if not read.held_out:
        tell("nothing is held out: name the test rows with --against, or cut them off first with `kivnun split`")
    options = EnrichOptions(
        kind, number, questions, tuple(label or ()), wishes, temperature=temperature, seed=seed, only_new=only_new
    )
    if dry_run:
        _show_plan(plan_questions(read.rows, options), as_json=as_json)
        return
    writer = _open_writer(endpoint, model, key_variable, local, (temperature, max_new_tokens, parallel))
    result = _run(read, writer, options, out)
    if as_json:
        typer.echo(json.dumps(asdict(result), ensure_ascii=False))
    else:
        _print(result, out)


def _open_writer(
    endpoint: str | None, model: str | None, key_variable: str, local: str | None, limits: tuple[float, int, int]
) -> "Writer":
    from kivnun.enrichment.writers import endpoint_writer, local_writer

    temperature, max_new_tokens, parallel = limits
    if (endpoint is None) == (local is None):
        raise typer.BadParameter("say who writes: --endpoint with --model, or --local")
    if local is not None:
        return local_writer(local, temperature=temperature, max_new_tokens=max_new_tokens)
    if model is None:
        raise typer.BadParameter("--endpoint needs --model, the name of the model there")
    return endpoint_writer(
        endpoint or "",
        model,
        key_variable=key_variable,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        parallel=parallel,
    )


def _run(read: "EnrichRows", writer: "Writer", options: "EnrichOptions", out: Path) -> "EnrichResult":
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    from kivnun.enrichment.enrich import enrich as enrich_rows

    sys.stderr.write(f"asking {writer.name} at {writer.place}; {len(read.held_out):,} rows are held out\n")
    columns = (*Progress.get_default_columns()[:3], "{task.fields[words]}", "left", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("questions", total=None, words="")

        def show(done: int, total: int, kept: int) -> None:
            progress.update(task, completed=done, total=total, words=f"{kept:,} rows kept")

        try:
            return enrich_rows(read, writer, options, out=out, show=show)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; answers so far are kept, and the same command goes on from here\n")
            raise


def _show_plan(questions: "list[Question]", *, as_json: bool) -> None:
    from kivnun.data.visible import make_visible

    first = questions[0]
    characters = sum(len(text) for question in questions for _, text in question.messages)
    if as_json:
        value = {"questions": len(questions), "characters": characters, "first": first.messages}
        typer.echo(json.dumps(value, ensure_ascii=False))
        return
    typer.echo(f"{len(questions):,} questions of {characters:,} characters together, nothing is asked; the first one:")
    for role, text in first.messages:
        typer.echo("\n".join(make_visible(line) for line in f"[{role}] {text}".split("\n")))


def _print(result: "EnrichResult", out: Path) -> None:
    known = f", {result.remembered:,} of them answered earlier" if result.remembered else ""
    unfit = f" ({result.unfit:,} of them cannot be asked about)" if result.unfit else ""
    typer.echo(f"{result.rows:,} rows{unfit}; {result.questions:,} questions{known}")
    typer.echo(f"{result.offered:,} new rows offered, {result.kept:,} kept in {out}")
    for reason, count in result.refused.items():
        typer.echo(f"  {count:,} not kept: {reason}")
    typer.echo(f"the origin of each new row: {out}.origins.jsonl; the answers: {out}.answers.jsonl")
