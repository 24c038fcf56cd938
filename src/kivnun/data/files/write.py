"""Rows become a file: whole or absent, packed as its name says, in bounded memory."""

import bz2
import gzip
import lzma
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from kivnun.data.files.names import find_suffix
from kivnun.data.files.parquet_writer import ParquetFileWriter
from kivnun.data.files.spool import Spool, dump_row
from kivnun.errors import UserError
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, sync_file, sync_folder


class RowWriter(Protocol):
    """What rows are written to."""

    def write(self, fields: Mapping[str, object]) -> None:
        """Write one row.

        Raises:
            UserError: `format-loss`, if the file cannot hold it.
        """
        ...


class _Writer(RowWriter, Protocol):
    def finish(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def open_writer(path: Path) -> Generator[RowWriter]:
    """Write rows to a file whose name says how: .jsonl, .json, .csv, .tsv or .parquet, and .gz, .bz2, .xz or .zst.

    The file appears, or replaces an older one, when the block ends; if it ends with an error nothing is left.

    Raises:
        UserError: `data-format` for another name, `file-unwritable`, `format-loss` or `disk-full`.
    """
    suffix = find_suffix(path)
    if suffix not in WRITERS:
        raise UserError(
            "data-format",
            f"{path}: cannot tell the format from the name",
            hint=f"use a file that ends in one of {', '.join('.' + name for name in WRITERS)}"
            " (packed too: .gz, .bz2, .xz, .zst)",
        )
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with disk_full_as_user_error(path):
        try:
            with (
                _create(partial, path) as file,
                _pack(file, path.suffix.lower()) as stream,
                closing(WRITERS[suffix](stream, path)) as writer,
            ):
                yield writer
                writer.finish()
            sync_file(partial)
            _replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


def _create(partial: Path, path: Path) -> IO[bytes]:
    try:
        return partial.open("xb")
    except OSError as error:
        raise _unwritable(path, error) from error


def _replace(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    hint = "name a file in a folder that you may write to"
    return UserError("file-unwritable", f"cannot write {path}: {reason}", hint=hint)


@contextmanager
def _keep(file: IO[bytes]) -> Generator[IO[bytes]]:
    yield file


def _pack(file: IO[bytes], suffix: str) -> AbstractContextManager[IO[bytes]]:
    """A stream that packs what is written to it; the time is left out, so that the same rows are the same file."""
    packed: object
    if suffix == ".gz":
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    elif suffix == ".bz2":
        packed = bz2.BZ2File(file, "wb")
    elif suffix == ".xz":
        packed = lzma.LZMAFile(file, "wb")  # noqa: SIM115 - closed by who asked for it
    elif suffix == ".zst":
        import zstandard  # noqa: PLC0415 - most files are not packed with it

        packed = zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    else:
        return _keep(file)
    return cast("AbstractContextManager[IO[bytes]]", packed)


class _JsonlWriter:
    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write(self, fields: Mapping[str, object]) -> None:
        self._stream.write(dump_row(fields, self._path) + b"\n")

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _JsonWriter:
    """An array with one row on each line, so that a row's line is its number plus one."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._start = b"[\n"

    def write(self, fields: Mapping[str, object]) -> None:
        self._stream.write(self._start + dump_row(fields, self._path))
        self._start = b",\n"

    def finish(self) -> None:
        self._stream.write(b"\n]\n" if self._start == b",\n" else b"[]\n")

    def close(self) -> None: ...


class _TableWriter:
    """CSV and TSV; rows wait in a spool until the columns of all of them are known."""

    def __init__(self, stream: IO[bytes], path: Path, join: Callable[[list[str], Path], str]) -> None:
        self._stream = stream
        self._path = path
        self._join = join
        self._spool = Spool(path)

    def write(self, fields: Mapping[str, object]) -> None:
        cells = {name: _write_cell(value, self._path) for name, value in fields.items()}
        self._join(list(cells.values()), self._path)
        self._spool.add(cells)

    def finish(self) -> None:
        columns = list(self._spool.columns)
        if columns:
            self._stream.write(self._join(columns, self._path).encode())
        for cells in self._spool.rows():
            line = self._join([str(cells.get(name, "")) for name in columns], self._path)
            self._stream.write(line.encode())

    def close(self) -> None:
        self._spool.close()


def _write_cell(value: object, path: Path) -> str:
    """A value as the text of a cell; whatever is no text is written as JSON, and null is an empty cell."""
    if isinstance(value, str):
        return value
    return "" if value is None else dump_row({"": value}, path)[4:-1].decode()


def _join_csv(cells: list[str], _: Path) -> str:
    quoted = [f'"{cell.replace(chr(34), chr(34) * 2)}"' if set(cell) & set(',"\r\n') else cell for cell in cells]
    # An empty line is no record.
    return (",".join(quoted) or '""') + "\n"


def _join_tsv(cells: list[str], path: Path) -> str:
    for cell in cells:
        if set(cell) & set("\t\r\n"):
            raise UserError(
                "format-loss",
                f"{path}: a cell holds a tab or a line break, which TSV cannot hold: {cell[:60]!r}",
                hint="write CSV or JSONL",
            )
    line = "\t".join(cells)
    if not line:
        raise UserError("format-loss", f"{path}: TSV cannot hold an empty line", hint="write CSV or JSONL")
    return line + "\n"


def _make_csv(stream: IO[bytes], path: Path) -> _Writer:
    return _TableWriter(stream, path, _join_csv)


def _make_tsv(stream: IO[bytes], path: Path) -> _Writer:
    return _TableWriter(stream, path, _join_tsv)


WRITERS: dict[str, Callable[[IO[bytes], Path], _Writer]] = {
    "jsonl": _JsonlWriter,
    "ndjson": _JsonlWriter,
    "json": _JsonWriter,
    "csv": _make_csv,
    "tsv": _make_tsv,
    "parquet": ParquetFileWriter,
}
