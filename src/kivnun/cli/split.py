"""`kivnun split`: data files cut into train, validation and test files."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kivnun.cli.output import tell, to_json

if TYPE_CHECKING:
    from kivnun.data.split_files import FilesCut
    from kivnun.recipe.schema import SplitSection

QUIET_SECONDS = 2.0


def split(
    data: Annotated[str, typer.Argument(help="A file, a folder, or a Hugging Face id (org/name).", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT_FOLDER", help="The folder to write to.", show_default=False)],
    validation: Annotated[
        str, typer.Option(help="Rows to validate on: a share below 1, or a number; 0: none.")
    ] = "0.1",
    test: Annotated[str, typer.Option(help="Rows to test on: a share below 1, or a number; 0: none.")] = "0.1",
    by: Annotated[
        str, typer.Option(help="random, time:COLUMN (the newest rows test), or group:COLUMN (a value stays together).")
    ] = "random",
    stratify_by: Annotated[
        str | None, typer.Option(help="Column whose values keep their shares.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another split.", min=0)] = 0,
    near_duplicates: Annotated[
        Literal["together", "ignore"], typer.Option(help="Whether rows that ask nearly the same stay together.")
    ] = "together",
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether tables begin with column names.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier split.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Cut data into train, validation and test files: the same rows everywhere, and no copies on both sides."""
    from kivnun.data.files.dataset import ReadOptions
    from kivnun.data.files.find import find_data
    from kivnun.data.split_files import cut_files, describe_cut, write_files

    section = _read_section(
        {
            "validation": _read_size(validation, "--validation"),
            "test": _read_size(test, "--test"),
            "stratify_by": stratify_by,
            "seed": seed,
            "near_duplicates": near_duplicates,
            **_read_by(by),
        }
    )
    dataset = find_data(data)
    options = ReadOptions(header=header)
    progress = _Progress()
    if not dry_run:
        _require_room(out, force=force, used={file.path.resolve() for file in dataset.files})
    cut = cut_files(dataset, section, options, show=progress.show)
    paths: dict[str, Path] = {}
    if not dry_run:
        _make_folder(out)
        paths = write_files(cut, section, out, options, show=progress.show)
        _remove_stale(out, set(paths.values()))
    _tell(cut)
    if as_json:
        sys.stdout.write(to_json({**describe_cut(cut, section, paths), "dry_run": dry_run}))
        return
    for name, count in cut.counts.items():
        where = paths.get(name, out / f"{name}{cut.ending}")
        sys.stdout.write(f"{'would write' if dry_run else 'wrote'} {count:,} row(s) to {where}\n")


def _read_size(text: str, option: str) -> float | int:
    """A share or a number of rows."""
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is no share and no number of rows") from error


def _read_by(by: str) -> dict[str, str]:
    """What decides where a row goes, as fields of `data.split`."""
    kind, colon, column = by.partition(":")
    if by == "random":
        return {}
    if kind not in {"time", "group"} or not colon or not column:
        raise typer.BadParameter(f"--by: {by!r} is not random, time:COLUMN or group:COLUMN")
    return {f"{kind}_by": column}


def _read_section(values: dict[str, object]) -> "SplitSection":
    from pydantic import ValidationError

    from kivnun.recipe.schema import SplitSection

    try:
        return SplitSection.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip() for each in error.errors())
        raise typer.BadParameter(problems) from error


def _require_room(out: Path, *, force: bool, used: set[Path]) -> None:
    """Refuse a folder whose files would be overwritten, unless that is wanted; never what is being read."""
    from kivnun.data.split_files import find_earlier
    from kivnun.errors import UserError

    if out.exists() and not out.is_dir():
        raise UserError("file-unwritable", f"{out} is a file", hint="name a folder")
    found = find_earlier(out)
    read = [path for path in found if path.resolve() in used]
    if read:
        raise UserError("file-exists", f"{read[0]} is what is being split", hint="name another folder")
    if found and not force:
        raise UserError("file-exists", f"{found[0]} exists", hint="name another folder, or replace it with --force")


def _make_folder(out: Path) -> None:
    from kivnun.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "name a folder that you may write to"
        raise UserError("file-unwritable", f"cannot make {out}: {reason}", hint=hint) from error


def _remove_stale(out: Path, written: set[Path]) -> None:
    """Take away files of an earlier split that this one has not written: they would be taken for a part of it."""
    from kivnun.data.files.names import SPLIT_RECORD
    from kivnun.data.split_files import find_earlier

    for path in find_earlier(out):
        if path not in written and path.name != SPLIT_RECORD:
            path.unlink()


class _Progress:
    """What is being done, on standard error, once it takes longer than two seconds."""

    def __init__(self) -> None:
        self._started = self._said_at = time.monotonic()

    def show(self, what: str, num_rows: int) -> None:
        """Say what is being done with how many rows."""
        from kivnun.cli.progress import PLAIN_LINE_SECONDS

        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if now - self._started < QUIET_SECONDS or now - self._said_at < (1 if is_terminal else PLAIN_LINE_SECONDS):
            return
        self._said_at = now
        sys.stderr.write(
            f"{what}  {num_rows:,} rows  {now - self._started:.0f} s  {chr(13) if is_terminal else chr(10)}"
        )
        sys.stderr.flush()


def _tell(cut: "FilesCut") -> None:
    """What was detected and why, and what is worth knowing of the split."""
    for file, why in cut.formats.items():
        tell(f"read {file} as {why}")
    for note in cut.notes:
        tell(f"note: {note}")
