"""`kivnun check`: what is wrong with data, before anything is trained on it, here or elsewhere."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kivnun.data.checks.block import TokenChecks
    from kivnun.data.checks.report import CheckReport
    from kivnun.data.checks.stream import CheckOptions
    from kivnun.data.files.dataset import DataSet, Split

DATA_HELP = "A file, several files, a folder, a Hugging Face id (org/name), or a recipe (.yaml)."
RECIPE_ENDINGS = (".yaml", ".yml")


def check(
    data: Annotated[list[str] | None, typer.Argument(help=DATA_HELP, show_default=False)] = None,
    train: Annotated[list[str] | None, typer.Option(help="Files of training rows; repeatable.")] = None,
    validation: Annotated[list[str] | None, typer.Option(help="Files of validation rows; repeatable.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Files of test rows; repeatable.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model whose tokenizer reads the rows too.", show_default=False)
    ] = None,
    max_seq_len: Annotated[
        int | None,
        typer.Option(help="Tokens that a row may have; else the model's context.", min=1, show_default=False),
    ] = None,
    wanted: Annotated[
        str | None, typer.Option("--from", help="The format of the rows; else found out.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The column that is read.", show_default=False)] = None,
    answer: Annotated[str | None, typer.Option(help="The column that is learnt.", show_default=False)] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether tables begin with column names.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="How texts are encoded; else UTF-8, or what a mark says.", show_default=False)
    ] = None,
    service: Annotated[
        Literal["openai", "azure", "gemini"] | None,
        typer.Option("--for", help="A hosted service whose limits count too.", show_default=False),
    ] = None,
    near: Annotated[
        Literal["auto", "on", "off"], typer.Option(help="Look for near duplicates; auto: up to a million rows.")
    ] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="End with status 1 where there are warnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    sarif: Annotated[Path | None, typer.Option(help="Write a SARIF file too.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page too.", show_default=False)] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A code that does not count; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Check every row: syntax, format, turns, texts, repeats, leaks, labels, sizes. Errors end it with status 2."""
    from kivnun.cli.check_table import print_report
    from kivnun.cli.row_progress import RowProgress
    from kivnun.data.checks.stream import CheckOptions, check_data
    from kivnun.data.files.dataset import ReadOptions

    _require_codes(ignore or [])
    options = CheckOptions(
        wanted=wanted,
        prompt=prompt,
        answer=answer,
        read=ReadOptions(header=header, encoding=encoding),
        service=service,
        near=near,
        ignore=frozenset(ignore or []),
    )
    given: dict[Split, list[str]] = {"train": train or [], "validation": validation or [], "test": test or []}
    recipes = [name for name in data or [] if name.lower().endswith(RECIPE_ENDINGS)]
    with RowProgress(sys.stderr, "checking") as progress:
        if recipes:
            if len(data or []) > 1 or any(given.values()):
                raise typer.BadParameter("a recipe names its own files: check it alone")
            report = _check_recipe(Path(recipes[0]), options, model, max_seq_len)
        else:
            tokens = _open_tokens(model, max_seq_len) if model is not None else None
            report = check_data(_find(data or [], given), replace(options, tokens=tokens), show=progress.show)
    _write_files(report, sarif, html)
    if as_json:
        _print_json(report, strict=strict)
    else:
        print_report(report)
    raise typer.Exit(report.exit_status(strict=strict))


def _require_codes(codes: list[str]) -> None:
    """Refuse codes that do not exist: a misspelt one would ignore nothing, silently."""
    from difflib import get_close_matches

    from kivnun.data.findings import CHECKS

    for code in codes:
        if code not in CHECKS:
            close = get_close_matches(code, CHECKS, n=1)
            raise typer.BadParameter(
                f"no check has the code {code!r}{f'; did you mean {close[0]!r}?' if close else ''}"
            )


def _find(data: list[str], given: "dict[Split, list[str]]") -> "DataSet":
    """The files of every name; those given for a split belong to it whatever they are called."""
    from kivnun.data.files.dataset import DataSet
    from kivnun.data.files.find import find_data

    if not data and not any(given.values()):
        raise typer.BadParameter("name data to check")
    found = [find_data(name) for name in data]
    for split, names in given.items():
        for name in names:
            dataset = find_data(name)
            files = tuple(replace(file, split=split, why=f"{file.why}; --{split}") for file in dataset.files)
            found.append(replace(dataset, files=files))
    return DataSet(
        " ".join(dict.fromkeys(dataset.name for dataset in found)),
        tuple(file for dataset in found for file in dataset.files),
        tuple(note for dataset in found for note in dataset.notes),
    )


def _open_tokens(model: str, max_seq_len: int | None) -> "TokenChecks":
    """The checks that need a model's tokenizer."""
    from kivnun.data.checks.token_pass import TokenPass
    from kivnun.data.checks.tokens import TokenLimits
    from kivnun.data.encode import Encoder
    from kivnun.models.context import folder_context
    from kivnun.models.load import load_tokenizer
    from kivnun.models.resolve import resolve_model

    folder = resolve_model(model).folder
    context = folder_context(folder)
    limits = [limit for limit in (max_seq_len, context) if isinstance(limit, int)]
    return TokenPass(Encoder(load_tokenizer(folder)), TokenLimits(min(limits, default=sys.maxsize)))


def _check_recipe(path: Path, options: "CheckOptions", model: str | None, max_seq_len: int | None) -> "CheckReport":
    """The rows of a recipe, as its run would read, split and write them."""
    from kivnun.data.checks.report import ignore_codes
    from kivnun.data.encode import Encoder
    from kivnun.data.preflight import check_splits
    from kivnun.data.reading import read_data
    from kivnun.inputs import fit_context, located_recipe
    from kivnun.models.load import load_tokenizer
    from kivnun.models.resolve import resolve_model
    from kivnun.recipe.load import load_recipe

    recipe = located_recipe(load_recipe(path, []))
    data, encoder = recipe.data, None
    name = model if model is not None else recipe.base_model
    if isinstance(name, str):
        base = resolve_model(name)
        encoder = Encoder(load_tokenizer(base.folder))
        if max_seq_len is not None:
            data = data.model_copy(update={"max_seq_len": max_seq_len})
        data, _ = fit_context(data, base, recipe.method)
    read = read_data(recipe.data, recipe.training.objective.kind)
    report = check_splits(read, data, name=str(path), encoder=encoder, options=options)
    # A run refuses rows that are too long with its own words, or leaves them out where the recipe says so.
    dropped = {"answer-cut", "prompt-too-long"} if data.on_too_long == "drop" else set[str]()
    return ignore_codes(report, {*options.ignore, *data.ignore_checks, *dropped})


def _write_files(report: "CheckReport", sarif: Path | None, html: Path | None) -> None:
    from kivnun.cli.files import write_named
    from kivnun.cli.output import tell, to_json

    if sarif is not None:
        from kivnun.data.checks.sarif import make_sarif

        text = to_json(make_sarif(report, root=Path.cwd()))
        is_log = sarif.name.lower().endswith((".sarif", ".sarif.json"))
        write_named(sarif, text, may_replace=is_log, hint="only a log is overwritten: name a file that ends in .sarif")
        tell(f"wrote {sarif}")
    if html is not None:
        from kivnun.data.checks.page import render_page

        is_page = html.suffix.lower() in {".html", ".htm"}
        hint = "only a page is overwritten: name a file that ends in .html"
        write_named(html, render_page(report), may_replace=is_page, hint=hint)
        tell(f"wrote {html}")


def _print_json(report: "CheckReport", *, strict: bool) -> None:
    from kivnun.cli.output import to_json

    value = {**report.to_json(), "exit_status": report.exit_status(strict=strict)}
    sys.stdout.write(to_json(value))
