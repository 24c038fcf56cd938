"""Rows that wait on the disk until all of them have been seen: some files need every column's name before the first."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from kivnun.errors import UserError

_MEMORY_BYTES = 16 << 20


class Spool:
    """Rows in order, as JSON lines; small ones stay in memory.

    Attributes:
        columns: The names of all fields, in the order in which they were first seen.
    """

    def __init__(self, path: Path) -> None:
        self.columns: dict[str, None] = {}
        self._path = path
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed when the spool is

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def add(self, fields: Mapping[str, object]) -> None:
        """Keep a row.

        Raises:
            UserError: `format-loss`, if it holds what JSON cannot hold.
        """
        self.columns.update(dict.fromkeys(fields))
        self._file.write(dump_row(fields, self._path) + b"\n")

    def rows(self) -> Iterator[dict[str, object]]:
        """All rows from the first on."""
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)


def dump_row(fields: Mapping[str, object], path: Path) -> bytes:
    """A row as JSON on one line.

    Raises:
        UserError: `format-loss`, if it holds what JSON cannot hold, such as bytes.
    """
    try:
        return orjson.dumps(fields if isinstance(fields, dict) else dict(fields))
    except TypeError as error:
        raise UserError(
            "format-loss",
            f"{path}: a row cannot be written as JSON: {error}",
            hint="take the field out, or write it as text",
        ) from error
