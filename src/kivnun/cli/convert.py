"""`kivnun convert`: data in another format, whole or not at all."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kivnun.data.convert import Conversion


def convert(
    data: Annotated[
        str,
        typer.Argument(metavar="IN", help="A file, a folder, or a Hugging Face id (org/name).", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A file: .jsonl .json .csv .tsv .parquet, also with .gz .xz .zst; or a folder, for a file a split.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None, typer.Option("--to", help="The format to write; without it they are listed.", show_default=False)
    ] = None,
    wanted: Annotated[
        str | None, typer.Option("--from", help="The format of IN; else found out.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The column of IN that is read.", show_default=False)] = None,
    answer: Annotated[str | None, typer.Option(help="The column of IN that is learnt.", show_default=False)] = None,
    drop_extra: Annotated[
        bool, typer.Option("--drop-extra", help="Leave out further columns that the format cannot hold.")
    ] = False,
    split: Annotated[
        Literal["train", "validation", "test"] | None, typer.Option(help="Convert this split only.", show_default=False)
    ] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether tables begin with column names.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="How texts are encoded, such as cp1255; else UTF-8.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Write data in another format. What the format cannot hold is refused with its rows, and nothing is written."""
    from kivnun.cli.row_progress import RowProgress
    from kivnun.data.convert import ConvertOptions, convert_data, find_target
    from kivnun.data.files.dataset import ReadOptions
    from kivnun.data.files.find import find_data

    options = ConvertOptions(
        find_target(to),
        wanted=wanted,
        prompt=prompt,
        answer=answer,
        read=ReadOptions(header=header, encoding=encoding),
        drop_extra=drop_extra,
        dry_run=dry_run,
        force=force,
    )
    with RowProgress(sys.stderr, "converting") as progress:
        done = convert_data(find_data(data), out, options, split=split, show=progress.show)
    _tell(done)
    if as_json:
        _print_json(done, dry_run=dry_run)
    else:
        verb = "would write" if dry_run else "wrote"
        for path, num_rows in done.written.items():
            sys.stdout.write(f"{verb} {num_rows:,} row(s) as {done.to} to {path}\n")


def _tell(done: "Conversion") -> None:
    """What was detected and why, what is worth knowing, and what was lost."""
    from kivnun.cli.output import tell

    for source in done.sources:
        why = f"{source.why}; {source.file.why}" if source.file.why else source.why
        name = source.format or "nothing"
        tell(f"read {source.num_rows:,} row(s) of {source.file.path} as {name}: {why}")
    for note in done.notes:
        tell(f"note: {note.where}: {note.message}")
    if done.num_notes > len(done.notes):
        sys.stderr.write(f"note: ... and {done.num_notes - len(done.notes):,} more\n")
    for column, num_rows in done.dropped.items():
        tell(f"warning: `{column}` was left out in {num_rows:,} row(s)")


def _print_json(done: "Conversion", *, dry_run: bool) -> None:
    from kivnun.cli.output import to_json

    value = {
        "to": done.to,
        "dry_run": dry_run,
        "sources": [
            {
                "file": str(source.file.path),
                "split": source.file.split,
                "layout": source.file.layout,
                "format": source.format,
                "why": source.why,
                "rows": source.num_rows,
            }
            for source in done.sources
        ],
        "written": [{"file": str(path), "rows": num_rows} for path, num_rows in done.written.items()],
        "dropped": dict(done.dropped),
        "notes": [{"code": note.code, "where": note.where, "message": note.message} for note in done.notes],
    }
    sys.stdout.write(to_json(value))
