"""The table of a model's forms, with the Pareto front and the one that is shipped."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kivnun.generation.agreement import ParityRow

PIPE_WIDTH = 200


def print_forms(rows: "Sequence[ParityRow]", *, front: Sequence[str] = (), shipped: str | None = None) -> None:
    """Print every form that was made, on standard output.

    Args:
        rows: The rows of the certificate.
        front: Names of the forms that no other one beats in everything.
        shipped: Folder of the form that was picked.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kivnun.cli.summary import PARITY_COLUMNS, say_parity

    console = Console(highlight=False)
    if not console.is_terminal:
        # In a file or a pipe there is no edge to wrap at.
        console = Console(highlight=False, width=PIPE_WIDTH)
    table = Table(title="Every form of the model, asked the same", title_justify="left")
    table.add_column("form", overflow="fold")
    for name in PARITY_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        said = say_parity(row)
        is_shipped = shipped is not None and row.folder == shipped
        marks = ["shipped" if is_shipped else "", "on the front" if row.name in front else "", row.verdict, row.note]
        cells = (said[each] for each in PARITY_COLUMNS.values())
        table.add_row(*map(Text, (row.name, *cells, "; ".join(filter(None, marks)))))
    console.print(table)
