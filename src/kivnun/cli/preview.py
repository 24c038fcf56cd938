"""`kivnun preview`: a few rows as the model sees them, with what is trained in bold green."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    # For types only: the command line must start without torch.
    from kivnun.cli.preview_rows import RowsWanted
    from kivnun.data.preview import ShownRow

DATA_HELP = "A recipe (.yaml), or data: a file, a folder, or a Hugging Face id (org/name)."
RECIPE_ENDINGS = (".yaml", ".yml")


def preview(
    data: Annotated[str, typer.Argument(help=DATA_HELP, show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer and chat template are used; else the recipe's, or `bundled`.")
    ] = None,
    rows: Annotated[int, typer.Option(help="How many rows are shown.", min=1, max=1000)] = 3,
    row: Annotated[
        str | None, typer.Option(help="Which rows are shown, by their number in the split: 17,40-45.")
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="The split that they come from; else train, or the first that there is."),
    ] = None,
    wanted: Annotated[str | None, typer.Option("--from", help="The format of the rows; else found out.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The column that is read.")] = None,
    answer: Annotated[str | None, typer.Option(help="The column that is learnt.")] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether tables begin with column names.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="How texts are encoded, such as cp1255; else UTF-8.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe's field: section.field=value; repeatable.")
    ] = None,
) -> None:
    """Show rows token by token, and which tokens are trained; that text stands between ⟦ ⟧ where there is no colour."""
    from kivnun.cli.preview_rows import RowsWanted, show_data, show_recipe

    choice = RowsWanted(split, _read_numbers(row, rows), model, wanted, prompt, answer, header, encoding)
    if data.lower().endswith(RECIPE_ENDINGS):
        _require_unset(choice, "data", ("wanted", "prompt", "answer", "header", "encoding"))
        shown, title, facts = show_recipe(Path(data), choice, overrides or [])
    else:
        if overrides:
            raise typer.BadParameter("--set changes a recipe; data has no fields to set")
        shown, title, facts = show_data(data, choice)
    if html is not None:
        from kivnun.data.preview_page import render_preview

        _write_page(html, render_preview(shown, title, facts))
    if as_json:
        _print_json(shown)
    elif html is None:
        from kivnun.cli.preview_text import print_rows

        print_rows(shown)
    if all(each.problem for each in shown):
        raise typer.Exit(2)


def _read_numbers(row: str | None, rows: int) -> list[int]:
    from kivnun.data.chosen_rows import parse_numbers

    if row is None:
        return list(range(1, rows + 1))
    try:
        return parse_numbers(row)
    except ValueError as error:
        raise typer.BadParameter(f"--row: {error}") from error


def _require_unset(choice: "RowsWanted", what: str, names: Sequence[str]) -> None:
    """Refuse options that would change nothing."""
    given = [name for name in names if getattr(choice, name) is not None]
    if given:
        options = ", ".join(f"--{name.replace('wanted', 'from')}" for name in given)
        raise typer.BadParameter(f"{options} belong(s) to {what}; a recipe says how its files are read")


def _write_page(path: Path, page: str) -> None:
    from kivnun.cli.files import write_named
    from kivnun.cli.output import tell

    is_page = path.suffix.lower() in {".html", ".htm"}
    write_named(path, page, may_replace=is_page, hint="only a page is overwritten: name a file that ends in .html")
    tell(f"wrote {path}")


def _print_json(rows: "Sequence[ShownRow]") -> None:
    from kivnun.cli.output import to_json
    from kivnun.data.token_pieces import count_tokens

    value = [
        {
            "row": row.number,
            "where": row.where,
            "format": row.format or None,
            "tokens": count_tokens(row.pieces)[1],
            "trained_tokens": count_tokens(row.pieces)[0],
            "characters_per_token": round(row.characters_per_token, 3),
            "notes": row.notes,
            "problem": row.problem or None,
            "pieces": row.pieces,
            "rejected_pieces": row.rejected,
        }
        for row in rows
    ]
    sys.stdout.write(to_json(value))
