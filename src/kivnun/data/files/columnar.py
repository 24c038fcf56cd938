"""Parquet and Arrow files: rows by number, in batches."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kivnun.data.files.unpack import UnreadableError, find_packing, stream_bytes
from kivnun.data.findings import Finding
from kivnun.data.rows import Row

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_BATCH_ROWS = 1024
_ARROW_FILE_MAGIC = b"ARROW1"


def read_parquet(path: Path) -> Iterator[Row | Finding]:
    """The rows of a Parquet file; `line` is the row's number."""
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - loads numpy, which other layouts do not need

    def read_batches(file: IO[bytes]) -> Iterator["RecordBatch"]:
        with ParquetFile(file) as table:
            yield from table.iter_batches(_BATCH_ROWS)

    return _read_rows(path, read_batches)


def read_arrow(path: Path) -> Iterator[Row | Finding]:
    """The rows of an Arrow file, in either of its two forms (Hugging Face's `save_to_disk` writes streams)."""
    from pyarrow import ipc  # noqa: PLC0415 - loads numpy, which other layouts do not need

    def read_batches(file: IO[bytes]) -> Iterator["RecordBatch"]:
        is_file = file.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
        file.seek(0)
        if not is_file:
            with ipc.open_stream(file) as stream:
                yield from stream
            return
        with ipc.open_file(file) as table:
            for number in range(table.num_record_batches):
                yield table.get_batch(number)

    return _read_rows(path, read_batches)


def _read_rows(path: Path, read_batches: Callable[[IO[bytes]], Iterator["RecordBatch"]]) -> Iterator[Row | Finding]:
    from pyarrow import ArrowException  # noqa: PLC0415 - see above

    number = 0
    try:
        with _open_unpacked(path) as file:
            for batch in read_batches(file):
                names: list[str] = batch.schema.names
                if len(set(names)) < len(names):
                    # Of two columns with one name only the last would be read.
                    yield Finding("csv-header", str(path), 0, f"column names must be unique: {names}")
                    return
                # A damaged file may name places outside of itself, which would be read.
                batch.validate(full=True)
                for number, fields in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020 - counts on
                    yield Row({name: drop_nulls(value) for name, value in fields.items()}, str(path), number)
    except (ArrowException, ValueError, OverflowError, MemoryError, OSError, UnreadableError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        said = f"cannot be read: {reason}" if number == 0 else f"cannot be read behind row {number}: {reason}"
        yield Finding("file-unreadable", str(path), 0, said)


@contextmanager
def _open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file itself, or an unpacked copy of it, since these formats are read from their end."""
    with path.open("rb") as file:
        if not find_packing(file):
            yield file
            return
    with tempfile.TemporaryFile() as copy:
        for chunk in stream_bytes(path):
            copy.write(chunk)
        copy.seek(0)
        yield copy


def drop_nulls(value: object) -> object:
    """The value without null keys of inner objects: a column of objects has every key that any of them has."""
    if isinstance(value, dict):
        return {key: drop_nulls(inner) for key, inner in value.items() if inner is not None}
    return [drop_nulls(inner) for inner in value] if isinstance(value, list) else value
