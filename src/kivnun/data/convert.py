"""A data set in another format: every row is carried over whole, or nothing is written and the rows are named."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from kivnun.data.convert_rows import Ledger
from kivnun.data.files.dataset import DataFile, DataSet, ReadOptions, Split
from kivnun.data.files.read import stream_rows
from kivnun.data.files.write import RowWriter, open_writer
from kivnun.data.findings import Finding
from kivnun.data.formats import FORMATS, Detection, detect_format
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import did_you_mean
from kivnun.data.rows import Row
from kivnun.errors import UserError

_SAMPLE_ROWS = 100
_SHOWN_EVERY_ROWS = 500
_FOLDER_ENDING = ".jsonl"

Show = Callable[[int, float], None]
"""Is told how many rows were read, and which share of the file that is."""


@dataclass(frozen=True)
class ConvertOptions:
    """What is asked for.

    Attributes:
        to: The format that is written.
        wanted: The format that is read; detected in every file where it is None.
        prompt: Of a table, the column that is read.
        answer: Of a table, the column that is learnt.
        read: What the user says about the files.
        drop_extra: Whether further columns that the format cannot hold are left out.
        dry_run: Whether everything is done but the writing.
        force: Whether files that exist are overwritten.
    """

    to: Format
    wanted: str | None = None
    prompt: str | None = None
    answer: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    drop_extra: bool = False
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class Source:
    """A file that was read.

    Attributes:
        file: The file, with its layout and split.
        format: What its rows were taken for.
        why: What speaks for it.
        num_rows: Its rows.
    """

    file: DataFile
    format: str
    why: str
    num_rows: int


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        to: The format that was written.
        sources: The files that were read.
        written: Rows by the file that they were written to.
        dropped: Rows by the further column that they lost.
        notes: What is worth knowing about the files, such as lines that were skipped: the first of it.
        num_notes: How much of that there is.
    """

    to: str
    sources: tuple[Source, ...]
    written: Mapping[Path, int]
    dropped: Mapping[str, int]
    notes: tuple[Finding, ...]
    num_notes: int


def find_target(name: str | None) -> Format:
    """The format to write.

    Raises:
        UserError: `data-format`, if none is named, or one that is unknown or only read.
    """
    writable = [format_ for format_ in FORMATS.values() if format_.write is not None]
    found = FORMATS.get(name or "")
    if found is not None and found.write is not None:
        return found
    near = did_you_mean(name, [format_.name for format_ in writable]) if name else ""
    problem = f"the format `{name}` is only read, not written" if found else f"no format is called `{name}`{near}"
    raise UserError(
        "data-format",
        problem if name else "the format to convert to is not said",
        details=[f"{format_.name:22}{format_.summary}" for format_ in writable],
        hint="say --to and one of these names",
    )


def convert_data(
    dataset: DataSet, out: Path, options: ConvertOptions, *, split: Split | None = None, show: Show | None = None
) -> Conversion:
    """Write a data set in another format; nothing appears before every row was carried over.

    Args:
        dataset: What is read.
        out: A file, whose ending tells how rows become bytes, or a folder, which gets one file for each split.
        options: What is asked for.
        split: The only split that is converted.
        show: Is told again and again how far the work is.

    Raises:
        UserError: `format-loss` if the format cannot hold the rows, `data-malformed` if rows cannot be read,
            `data-format` if their format cannot be told, `data-empty`, `file-exists` or `file-unwritable`.
    """
    ledger = Ledger(options.to, drop_extra=options.drop_extra, notes=dataset.notes)
    sources: list[Source] = []
    written: dict[Path, int] = {}
    with ExitStack() as stack:
        for path, files in plan_files(dataset, out, split).items():
            _refuse_source(path, dataset)
            writer = stack.enter_context(_open(path, options))
            before = ledger.num_rows
            sources += [_convert_file(file, writer, options, ledger, show or _show_nothing) for file in files]
            written[path] = ledger.num_rows - before
        ledger.refuse(dataset.name)
    return Conversion(
        options.to.name,
        tuple(sources),
        written,
        dict(ledger.dropped),
        notes=tuple(ledger.notes),
        num_notes=ledger.num_notes,
    )


def plan_files(dataset: DataSet, out: Path, split: Split | None) -> dict[Path, list[DataFile]]:
    """The files to write, each with the files that its rows come from.

    Raises:
        UserError: `data-empty` if the split has no files, `data-format` if several splits would share one file.
    """
    splits: dict[Split, list[DataFile]] = {}
    for file in dataset.files:
        if split in (None, file.split):
            splits.setdefault(file.split, []).append(file)
    if not splits:
        has = ", ".join(dict.fromkeys(file.split for file in dataset.files))
        raise UserError("data-empty", f"{dataset.name} has no {split} rows, only {has}", hint="choose another --split")
    if out.is_dir() or not out.suffix:
        return {out / f"{name}{_FOLDER_ENDING}": files for name, files in splits.items()}
    if len(splits) > 1:
        raise UserError(
            "data-format",
            f"{dataset.name} has the splits {', '.join(splits)}, and {out} is one file",
            hint="name a folder, which gets a file for each, or choose one with --split",
        )
    return dict(zip([out], splits.values(), strict=True))


def _refuse_source(path: Path, dataset: DataSet) -> None:
    """Never write over what is read, whatever it is called there: what a format cannot hold would be gone."""
    for file in dataset.files:
        for source in file.columns.values() or [file.path]:
            if path.exists() and source.exists() and path.samefile(source):
                raise UserError("file-exists", f"{path} is the file that is read", hint="name another file")


@contextmanager
def _open(path: Path, options: ConvertOptions) -> Generator[RowWriter | None]:
    """The file to write, in a folder that is made for it and goes again if the file does not come."""
    if options.dry_run:
        yield None
        return
    if path.exists() and not options.force:
        raise UserError("file-exists", f"{path} exists", hint="name another file, or overwrite it with --force")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "file-unwritable",
            f"cannot write {path}: {path.parent} cannot be made: {(error.strerror or str(error)).lower()}",
            hint="name a file in a folder that you may write to",
        ) from error
    try:
        with open_writer(path) as writer:
            yield writer
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _convert_file(
    file: DataFile, writer: RowWriter | None, options: ConvertOptions, ledger: Ledger, show: Show
) -> Source:
    """Read a file to its end; after the first row that is refused nothing more is written."""
    items = stream_rows(file, options.read)
    head = list(_take_sample(items))
    sample = [item for item in head if isinstance(item, Row)]
    before = ledger.num_rows
    detection = _detect(sample, options)
    row_bytes = _measure(sample)
    for item in chain(head, items):
        if isinstance(item, Finding):
            ledger.note(item)
        elif detection is not None:
            fields = ledger.convert(item, detection.format)
            if fields is not None and writer is not None and ledger.is_clean:
                _write(fields, item, writer, ledger)
            done = ledger.num_rows - before
            if not done % _SHOWN_EVERY_ROWS:
                show(ledger.num_rows, min(1.0, done * row_bytes / max(1, file.path.stat().st_size)))
    name, why = (detection.format.name, detection.why) if detection else ("", "")
    return Source(file, name, why, ledger.num_rows - before)


def _write(fields: Mapping[str, object], row: Row, writer: RowWriter, ledger: Ledger) -> None:
    """Write a row; what the file cannot hold, such as line breaks in TSV, is told with the row that has it."""
    try:
        writer.write(fields)
    except UserError as error:
        if error.code != "format-loss":
            raise
        ledger.note(Finding("format-loss", row.file, row.line, error.problem))


def _take_sample(items: Iterator[Row | Finding]) -> Iterator[Row | Finding]:
    """The first rows, and what is said between them."""
    num_rows = 0
    for item in items:
        yield item
        num_rows += isinstance(item, Row)
        if num_rows == _SAMPLE_ROWS:
            return


def _detect(sample: Sequence[Row], options: ConvertOptions) -> Detection | None:
    """What the rows are, or None where a file has none: its findings tell why."""
    if not sample:
        return None
    return detect_format(sample, wanted=options.wanted, prompt=options.prompt, answer=options.answer)


def _measure(sample: Sequence[Row]) -> float:
    """About how many bytes a row has in its file."""
    sizes = [len(str(row.fields)) for row in sample]
    return sum(sizes) / max(1, len(sizes))


def _show_nothing(num_rows: int, share: float) -> None:
    """For callers who do not show how far the work is."""
