"""A row of a data file and the place where it stands: what every reader gives and every format takes."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file.

    Attributes:
        fields: Its fields as they stand there.
        file: The file, as the user named it.
        line: The line on which the row begins, from 1; in Parquet and Arrow files the number of the row.
    """

    fields: Mapping[str, object]
    file: str
    line: int

    @property
    def where(self) -> str:
        """`file:line`, for messages."""
        return f"{self.file}:{self.line}"
