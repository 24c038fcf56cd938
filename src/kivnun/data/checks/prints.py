"""Fingerprints of a stream, side by side in arrays that grow in place: joined at the end they would be there twice."""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from kivnun.data.duplicates.fingerprint import Fingerprints

_GROWTH = 1.125
_LEAST_ROWS = 4_096


class PrintStack:
    """Fingerprints that are added part by part."""

    def __init__(self) -> None:
        self._columns: dict[str, NDArray[np.generic]] = {}
        self._has_signatures = True
        self.num_rows = 0

    def add(self, part: Fingerprints) -> None:
        """Take in the next rows; signatures are kept as long as all parts have them."""
        if part.signatures is None:
            self.drop_signatures()
        elif not self._has_signatures:
            part = replace(part, signatures=None)
        end = self.num_rows + len(part)
        for field in fields(Fingerprints):
            values = getattr(part, field.name)
            if values is not None:
                self._write(field.name, values, end)
        self.num_rows = end

    def drop_signatures(self) -> None:
        """Free what near duplicates are found by."""
        self._has_signatures = False
        self._columns.pop("signatures", None)

    def take(self) -> Fingerprints | None:
        """All fingerprints, None where there are none; the stack is empty then."""
        columns, self._columns = self._columns, {}
        if not columns:
            return None
        number, self.num_rows = self.num_rows, 0
        taken = {name: column[:number] for name, column in columns.items()}
        return Fingerprints(**{"signatures": None, **taken})  # type: ignore[arg-type]

    def _write(self, name: str, values: NDArray[np.generic], end: int) -> None:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = np.empty((max(_LEAST_ROWS, end), *values.shape[1:]), values.dtype)
        elif end > len(column):
            # Large arrays are moved by the system's page tables and not copied.
            column.resize((max(end, int(_GROWTH * len(column))), *column.shape[1:]), refcheck=False)
        column[self.num_rows : end] = values
