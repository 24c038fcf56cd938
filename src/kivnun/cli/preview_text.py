"""Previewed rows on a terminal: trained green, rejected red, the rest dim; brackets where there is no colour."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kivnun.data.preview import ShownRow, describe_count
from kivnun.data.token_pieces import CUT_SIGN, TokenPiece, line_texts, plain_text, split_lines
from kivnun.data.visible import FIRST_STRONG_ISOLATE, POP_ISOLATE, make_visible

STYLES = {"trained": "bold underline green", "rejected": "bold underline red", "read": "dim"}


def print_rows(rows: Sequence[ShownRow]) -> None:
    """Print rows with their places, notes and counts."""
    console = Console(highlight=False)
    has_colour = console.is_terminal and not console.no_color
    for row in rows:
        # A pipe has no width: nothing is folded there.
        if has_colour:
            _print_coloured(row, console)
        else:
            sys.stdout.write("\n".join([*_plain_lines(row), "", ""]))


def _plain_lines(row: ShownRow) -> list[str]:
    lines = [make_visible(row.where)]
    if row.problem:
        lines.append(f"cannot be trained on: {make_visible(row.problem)}")
    lines += [f"note: {make_visible(note)}" for note in row.notes]
    if row.pieces:
        lines.append(plain_text(row.pieces))
        lines += ["rejected:", plain_text(row.rejected)] if row.rejected else []
        lines.append(describe_count(row))
    return lines


def _print_coloured(row: ShownRow, console: Console) -> None:
    parts = [Text(make_visible(row.where), "bold")]
    if row.problem:
        parts.append(Text(f"cannot be trained on: {make_visible(row.problem)}", "bold red"))
    parts += [Text(f"note: {make_visible(note)}", "yellow") for note in row.notes]
    if row.pieces:
        parts.append(_colour(row.pieces))
        parts += [Text("rejected:", "italic"), _colour(row.rejected)] if row.rejected else []
        parts.append(Text(describe_count(row), "italic"))
    console.print(*parts, "", sep="\n")


def _colour(pieces: Sequence[TokenPiece]) -> Text:
    """A text for a terminal, with a faint bar between tokens."""
    text = Text()
    is_cut = False
    for number, line in enumerate(split_lines(pieces)):
        text.append("\n" * bool(number) + FIRST_STRONG_ISOLATE)
        for index, (piece, shown) in enumerate(zip(line, line_texts(line), strict=True)):
            if not piece.fits and not is_cut:
                text.append(CUT_SIGN, "bold red")
            elif index and piece.token_ids:
                text.append("\u2502", "dim bright_black")
            is_cut = not piece.fits
            style = STYLES[piece.role]
            text.append(shown, f"{style} reverse" if piece.is_special else style)
        text.append(POP_ISOLATE)
    return text
