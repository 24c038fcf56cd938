"""`kivnun preview`: a few rows as the model sees them, with what is trained in bold green."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    # For types only: the command line must start without torch.
    from kivnun.data.prepare import PreparedRow
    from kivnun.data.preview import TokenPiece
    from kivnun.models.types import Tokenizer
    from kivnun.recipe.load import LoadedRecipe


def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.", show_default=False)],
    rows: Annotated[int, typer.Option(help="How many rows are shown.", min=1)] = 3,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="The split that they come from.")
    ] = "train",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: section.field=value; repeatable.")
    ] = None,
) -> None:
    """Show which tokens of the first rows are trained; trained text stands between ⟦ ⟧ where there is no colour."""
    from kivnun.data.preview import count_tokens, preview_page, preview_rows
    from kivnun.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    shown, tokenizer = _prepare_rows(loaded, split, rows)
    pieces = preview_rows(shown, tokenizer)
    places = [row.conversation.where for row in shown]
    if html is not None:
        _write_page(html, preview_page(pieces, places, f"{split} rows of {recipe}"))
    if json:
        _print_json(
            [
                {"where": place, "trained_tokens": count_tokens(row)[0], "tokens": count_tokens(row)[1], "pieces": row}
                for place, row in zip(places, pieces, strict=True)
            ]
        )
    elif html is None:
        _print_rows(pieces, places)


def _prepare_rows(loaded: "LoadedRecipe", split: str, count: int) -> "tuple[list[PreparedRow], Tokenizer]":
    """The first rows of a split, prepared as a run would prepare them."""
    from kivnun.data.encode import Encoder
    from kivnun.data.prepare import read_conversations, tokenize_splits
    from kivnun.errors import UserError
    from kivnun.models.load import load_tokenizer
    from kivnun.models.resolve import resolve_model
    from kivnun.pipeline import located_recipe

    recipe = loaded.recipe
    if not isinstance(recipe.base_model, str):
        raise UserError(
            "stage-unsupported",
            f"{loaded.path}: base_model is a new model, whose tokenizer does not exist before it is trained",
            hint="preview with a model that exists: --set base_model=bundled, or the base/ folder of the finished run",
        )
    data = located_recipe(loaded).data
    template, conversations = read_conversations(data, recipe.training.objective)
    if not conversations[split]:
        raise UserError(
            "split-too-small", f"the {split} split of {loaded.path} has no rows", hint="choose another --split"
        )
    tokenizer = load_tokenizer(resolve_model(recipe.base_model).folder)
    num_all = max(map(len, conversations.values()))
    num_read = count
    while True:
        first = {name: part[:num_read] for name, part in conversations.items()}
        try:
            shown = tokenize_splits(template, first, data, Encoder(tokenizer)).splits[split][:count]
        except UserError as error:
            if error.code != "answer-cut" or data.on_too_long == "refuse" or num_read >= num_all:
                raise
        else:
            if len(shown) == count or num_read >= len(conversations[split]):
                return shown, tokenizer
        # Rows that are dropped as too long may stand first: then more are read.
        num_read *= 4


def _print_rows(rows: "list[list[TokenPiece]]", places: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from kivnun.data.preview import describe_count, plain_text

    console = Console(highlight=False)
    has_colour = console.is_terminal and not console.no_color
    for pieces, place in zip(rows, places, strict=True):
        # A pipe has no width: nothing is folded there.
        if has_colour:
            console.print(Text(place, "bold"), _colour(pieces), Text(describe_count(pieces), "italic"), "", sep="\n")
        else:
            sys.stdout.write(f"{place}\n{plain_text(pieces)}\n{describe_count(pieces)}\n\n")


def _colour(pieces: "list[TokenPiece]") -> "object":
    """A row for a terminal: trained bold, green and underlined, the prompt dim, a faint bar between tokens."""
    from rich.text import Text

    from kivnun.data.preview import FIRST_STRONG_ISOLATE, POP_ISOLATE, split_lines

    text = Text()
    for number, line in enumerate(split_lines(pieces)):
        text.append("\n" * bool(number) + FIRST_STRONG_ISOLATE)
        for index, piece in enumerate(line):
            if index and piece.token_ids:
                text.append("\u2502", "dim bright_black")
            style = "bold underline green" if piece.trained else "dim"
            text.append(piece.text, f"{style} reverse" if piece.is_special else style)
        text.append(POP_ISOLATE)
    return text


def _write_page(path: Path, page: str) -> None:
    from kivnun.cli.files import write_named

    is_page = path.suffix.lower() in {".html", ".htm"}
    write_named(path, page, may_replace=is_page, hint="only a page is overwritten: name a file that ends in .html")
    sys.stderr.write(f"wrote {path}\n")


def _print_json(value: object) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
