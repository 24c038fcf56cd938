"""`kivnun`: the verbs, and the border where errors become text and exit statuses."""

import os
import sys

import typer

from kivnun.cli import (
    adapters,
    auto_opt,
    chat,
    check,
    compare,
    convert,
    decide,
    embed,
    enrich,
    estimate,
    evaluate,
    fetch,
    finetune,
    index,
    judge,
    keys,
    olive_verbs,
    optimize,
    preview,
    push,
    quantize,
    rate,
    recipe,
    repair,
    run,
    runs,
    search,
    serve,
    split,
    verify,
    watch,
)
from kivnun.cli.olive_words import FREE_WORDS
from kivnun.cli.output import tell
from kivnun.errors import EXIT_STATUS, UserError

app = typer.Typer(
    name="kivnun",
    help="From examples to a tuned, verified, int4 language model. Start with `kivnun run recipes/tone.yaml`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.add_typer(recipe.app, name="recipe")
app.add_typer(repair.app, name="repair")
app.add_typer(runs.app, name="runs")
app.command()(run.run)
app.command()(watch.watch)
app.command()(search.search)
app.command()(index.index)
app.command()(fetch.fetch)
app.command()(decide.decide)
app.command()(check.check)
app.command()(convert.convert)
app.command()(split.split)
app.command()(preview.preview)
app.command()(estimate.estimate)
app.command()(enrich.enrich)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(judge.judge)
app.command()(rate.rate)
app.command()(chat.generate)
app.command()(chat.chat)
app.command()(embed.embed)
app.command("generate-adapter")(adapters.generate_adapter)
app.command()(serve.serve)
app.command()(verify.verify)
app.command()(push.push)
# They read their flags themselves: Olive's are many, and must not be shortened or ignored.
app.command("finetune", context_settings=FREE_WORDS, add_help_option=False)(finetune.finetune)
app.command("auto-opt", context_settings=FREE_WORDS, add_help_option=False)(auto_opt.auto_opt)
app.command("optimize", context_settings=FREE_WORDS, add_help_option=False)(optimize.optimize)
app.command("quantize", context_settings=FREE_WORDS, add_help_option=False)(quantize.quantize)
olive_verbs.register_absent(app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """From examples to a tuned, verified, int4 language model."""
    if version:
        from kivnun import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The entry point of the installed command.

    A `UserError` is printed without a traceback and ends with status 2; Ctrl-C ends with 130, which typer sees to;
    anything else is our bug and shows its traceback.
    """
    # Must be set before torch is imported anywhere: OpenMP threads that spin for long preempt each other, which costs
    # up to 4x in the small products of a LoRA backward pass, and threads that never spin are woken too late for the
    # next of ten thousand small operations, which costs a third (docs/log.md). A short spin has neither fault.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        app(standalone_mode=True)
    except UserError as error:
        tell(str(error))
        sys.exit(EXIT_STATUS)
