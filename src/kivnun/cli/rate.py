"""`kivnun rate`: people say which of two models answers better, without knowing whose answer is whose."""

import codecs
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kivnun.assessment.pairs import AnswerPair
    from kivnun.assessment.verdicts import Verdicts

CHUNK_BYTES = 64
ESCAPE = b"\x1b"


def rate(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one, of the same rows.")],
    rater: Annotated[str | None, typer.Option(help="Who rates; the user's name if not given.")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows that are asked; all if not given.", min=1)] = None,
    page: Annotated[bool, typer.Option("--page", help="Rate in a browser; several raters at once.")] = False,
    port: Annotated[int | None, typer.Option(help="Of the page; a free one if not given.", min=1, max=65535)] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of rows and the sides.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Where ratings are kept; default: comparisons/A-vs-B.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON in the end.")] = False,
) -> None:
    """Show two answers side by side, blind, and keep which is better; the same words go on after an interruption."""
    if page and rater is not None:
        raise typer.BadParameter("--rater has no effect with --page, which asks for names")
    if port is not None and not page:
        raise typer.BadParameter("--port has no effect without --page")
    from kivnun.assessment.pairs import chosen_rows, comparison_folder, read_pairs, require_different
    from kivnun.assessment.verdicts import keep_names, read_verdicts, require_current
    from kivnun.cli.output import tell, to_json

    folder = out or comparison_folder(first, second)
    answers = read_pairs(first, second)
    require_different(answers)
    require_current(folder, answers)
    keep_names(folder, answers)
    chosen = chosen_rows(answers.different, rows, seed=seed)
    tell_rows(len(chosen), answers.num_same, rows)
    if page:
        _serve(folder, chosen, seed, port)
    else:
        _ask(folder, chosen, rater, seed)
    verdicts = read_verdicts(folder, answers)
    if as_json:
        sys.stdout.write(to_json(None if verdicts is None else verdicts.to_json()))
    elif verdicts is not None:
        print_verdicts(verdicts)
    tell(f"kept in {folder}" if verdicts is not None else "nothing is rated")


def tell_rows(num_chosen: int, num_same: int, wanted: int | None) -> None:
    """Say which rows are not asked, and where fewer are there than were asked for.

    Args:
        num_chosen: Rows that are asked.
        num_same: Rows with the same answer from both.
        wanted: Rows that were asked for.
    """
    from kivnun.cli.output import tell

    if wanted is not None and wanted > num_chosen:
        tell(f"{wanted:,} rows are asked for, and there are {num_chosen:,} to ask about")
    if num_same:
        tell(f"{num_same:,} rows have the same answer from both and are not asked")


def _ask(folder: Path, chosen: "tuple[AnswerPair, ...]", rater: str | None, seed: int) -> None:
    import getpass

    from kivnun.assessment.rating_terminal import rate_by_keys
    from kivnun.assessment.ratings import RatingSession
    from kivnun.cli.output import tell

    def show(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    with RatingSession(folder, rater or getpass.getuser(), chosen, seed=seed) as session:
        try:
            with open_keys() as keys:
                rate_by_keys(session, keys, show)
        except KeyboardInterrupt:
            done, total = session.progress
            tell(f"interrupted; {done:,} of {total:,} are kept, and the same command goes on from there")
            raise


@contextmanager
def open_keys() -> Generator[Iterator[str]]:
    """Keys as they are pressed; where standard input is no terminal, its characters.

    The terminal gives single keys from here on, and not only once the first one is read: a key that is pressed as soon
    as a row is shown must count.
    """
    if not sys.stdin.isatty():
        yield (key for line in sys.stdin for key in line.strip())
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _read_keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_keys(descriptor: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(descriptor, CHUNK_BYTES):
        keys = decoder.decode(data)
        # Arrows and the like come as one sequence, whose letters are no keys of their own.
        yield from [keys] if data.startswith(ESCAPE) else keys


def _serve(folder: Path, chosen: "tuple[AnswerPair, ...]", seed: int, port: int | None) -> None:
    from kivnun.assessment.rating_server import RatingServer
    from kivnun.cli.output import tell

    def show(rater: str, done: int, total: int) -> None:
        tell(f"{rater}: {done:,} of {total:,}")

    try:
        opened = RatingServer(folder, chosen, seed=seed, show=show, port=port or 0)
    except OSError as error:
        raise typer.BadParameter(f"--port {port} cannot be used: {(error.strerror or str(error)).lower()}") from error
    with opened as server:
        tell(f"open {server.address}")
        tell("whoever has this address on this machine can rate, under a name of their own; Ctrl-C ends")
        try:
            server.serve()
        except KeyboardInterrupt:
            tell("ended; every rating is kept")


def print_verdicts(verdicts: "Verdicts") -> None:
    """Print the counts, who is better, and how far raters and judges agree.

    Args:
        verdicts: The verdicts.
    """
    from kivnun.assessment.verdict_words import say_verdicts
    from kivnun.cli.output import open_console

    console = open_console()
    console.print(_table(verdicts))
    for line in say_verdicts(verdicts):
        console.print(line, markup=False, soft_wrap=True)


def _table(verdicts: "Verdicts") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from kivnun.assessment.verdict_words import verdict_columns, verdict_rows

    table = Table(title="Which answers are better, 95 % intervals", title_justify="left")
    for number, name in enumerate(verdict_columns(verdicts)):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in verdict_rows(verdicts):
        table.add_row(*map(Text, row))
    return table
