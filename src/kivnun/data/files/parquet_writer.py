"""Parquet files: each column gets a type that holds all of its values exactly, or else holds them as JSON text."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from kivnun.data.files.columnar import drop_nulls
from kivnun.data.files.spool import Spool, dump_row

if TYPE_CHECKING:
    from pyarrow import Array, DataType

_BATCH_ROWS = 1024
Columns = dict[str, list[object]]


class ParquetFileWriter:
    """Rows wait in a spool until the types of all columns are known."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._spool = Spool(path)

    def write(self, fields: Mapping[str, object]) -> None:
        """Keep a row.

        Raises:
            UserError: `format-loss`, if it holds what JSON cannot hold.
        """
        self._spool.add(fields)

    def finish(self) -> None:
        """Write all rows."""
        from pyarrow import RecordBatch, schema  # noqa: PLC0415 - loads numpy, which other files do not need
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415 - see above

        types = self._find_types()
        with ParquetWriter(self._stream, schema(list(types.items()))) as writer:
            for columns in self._batches():
                arrays = [_convert(columns[name], kind, self._path) for name, kind in types.items()]
                writer.write_batch(RecordBatch.from_arrays(arrays, names=list(types)))

    def close(self) -> None:
        """Give the space back."""
        self._spool.close()

    def _find_types(self) -> dict[str, "DataType"]:
        """A type for each column: the narrowest that gives every value back as it was, or text."""
        from pyarrow import string  # noqa: PLC0415 - see above

        types: dict[str, DataType | None] = {}
        for columns in self._batches():
            for name, values in columns.items():
                if name not in types or types[name] is not None:
                    types[name] = _widen(types.get(name), values)
        for columns in self._batches():
            for name, values in columns.items():
                kind = types[name]
                if kind is not None and not _holds(kind, values):
                    types[name] = None
        return {name: string() if kind is None else kind for name, kind in types.items()}

    def _batches(self) -> Iterator[Columns]:
        rows = self._spool.rows()
        while part := list(islice(rows, _BATCH_ROWS)):
            yield {name: [row.get(name) for row in part] for name in self._spool.columns}


def _widen(kind: "DataType | None", values: list[object]) -> "DataType | None":
    """The type that holds what `kind` holds and some further values; None if there is none."""
    from pyarrow import ArrowException, array, schema, unify_schemas  # noqa: PLC0415 - see above

    try:
        found = array(values).type
        if kind is None:
            return found
        both = [schema([("", kind)]), schema([("", found)])]
        return unify_schemas(both, promote_options="permissive").field(0).type
    except (ArrowException, OverflowError):
        return None


def _holds(kind: "DataType", values: list[object]) -> bool:
    """Whether values come back from a type as they were, but for null keys, which are as good as absent ones."""
    from pyarrow import ArrowException, array  # noqa: PLC0415 - see above

    try:
        back = array(values, kind).to_pylist()
    except (ArrowException, OverflowError):
        return False
    return not _has_empty_struct(kind) and all(
        _is_same(drop_nulls(value), drop_nulls(again)) for value, again in zip(values, back, strict=True)
    )


def _has_empty_struct(kind: "DataType") -> bool:
    """Whether a type has objects without keys, which Parquet cannot store."""
    from pyarrow.types import is_struct  # noqa: PLC0415 - see above

    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return (is_struct(kind) and not inner) or any(map(_has_empty_struct, inner))


def _is_same(value: object, again: object) -> bool:
    """Whether two values are equal; unlike in Python, true is not 1."""
    if isinstance(value, dict) and isinstance(again, dict):
        return value.keys() == again.keys() and all(_is_same(inner, again[key]) for key, inner in value.items())
    if isinstance(value, list) and isinstance(again, list):
        return len(value) == len(again) and all(map(_is_same, value, again))
    return value == again and isinstance(value, bool) == isinstance(again, bool)


def _convert(values: list[object], kind: "DataType", path: Path) -> "Array":
    from pyarrow import array  # noqa: PLC0415 - see above
    from pyarrow.types import is_string  # noqa: PLC0415 - see above

    if is_string(kind):
        values = [_as_text(value, path) for value in values]
    return cast("Array", array(values, kind))


def _as_text(value: object, path: Path) -> str | None:
    """A value as text: JSON unless it is text already."""
    if value is None or isinstance(value, str):
        return value
    return dump_row({"": value}, path)[4:-1].decode()
