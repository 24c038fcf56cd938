"""`kivnun verify`: does a shipped model, here or behind an endpoint, still answer as it was certified to?"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kivnun.verification import FormReport, VerifyReport


def verify(
    folder: Annotated[
        str, typer.Argument(help="A run, its optimized/ folder, or one form's folder.", show_default=False)
    ],
    threads: Annotated[int | None, typer.Option(help="Cores used; all if not given.", min=1)] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask this OpenAI-compatible address instead.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.", show_default=False)] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Check every file's hash, ask the golden prompts again, and compare with the tuned model's answers.

    Ends with status 2 where a file differs or a form answers worse than certified.
    """
    if (endpoint is None) != (model is None):
        raise typer.BadParameter("--endpoint and --model belong together")
    if endpoint is not None and threads is not None:
        raise typer.BadParameter("--threads has no effect on an endpoint")
    from kivnun.cli.asking_progress import AskingProgress
    from kivnun.cli.output import to_json
    from kivnun.verification import verify as verify_folder
    from kivnun.verification import verify_endpoint

    with AskingProgress(sys.stderr) as progress:
        if endpoint is not None and model is not None:
            report = verify_endpoint(folder, endpoint, model, key_variable=key_variable, show=progress.show)
        else:
            report = verify_folder(folder, num_threads=threads, show=progress.show)
    if as_json:
        sys.stdout.write(to_json(report.to_json()))
    else:
        _print(report)
    report.require_passed()


def _print(report: "VerifyReport") -> None:
    from kivnun.cli.output import open_console
    from kivnun.optimization.engines import why_not_here

    console = open_console()
    certificate = report.certificate
    fixed = "when training ended" if certificate.fixed_at == "training" else "when the forms were made"
    lines = [f"{report.folder}: certified {certificate.created}, golden prompts fixed {fixed}"]
    lines += [report.served] if report.served is not None else []
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(_table(report))
    for form in report.forms:
        if form.here is None:
            line = f"{form.recorded.name} {why_not_here(form.folder, form.recorded.target)}"
            console.print(line, markup=False, soft_wrap=True)


def _table(report: "VerifyReport") -> "Table":
    from rich.table import Table

    table = Table(title="Now, and as certified", title_justify="left")
    for name in ("form", "identical", "ties", "different", "token agreement", "divergence", "score", "tokens/s", ""):
        table.add_column(name, justify="left" if name in ("form", "") else "right")
    for form in report.forms:
        table.add_row(*_cells(form))
    return table


def _cells(form: "FormReport") -> list[str]:
    """Each figure over the certified one."""
    from kivnun.cli.summary import say_parity

    names = ("identical", "ties", "different", "token_agreement", "divergence", "score", "tokens_per_second")
    was = say_parity(form.recorded)
    now = say_parity(form.here) if form.here is not None else dict.fromkeys(names, "-")
    name = form.recorded.name if form.here is None else form.here.name
    return [name, *(f"{now[each]}\n[dim]{was[each]}[/dim]" for each in names), form.verdict]
