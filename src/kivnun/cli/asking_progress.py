"""How far the golden prompts of each form are, on standard error, once it takes longer than two seconds."""

from types import TracebackType
from typing import Self, TextIO

from kivnun.cli.row_progress import RowProgress


class AskingProgress:
    """A display of its own for each form that is asked.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name = ""
        self._rows: RowProgress | None = None

    def __enter__(self) -> Self:
        """The display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._rows is not None:
            self._rows.__exit__(kind, error, trace)

    def show(self, name: str, done: int, total: int) -> None:
        """Say how many of the questions to a form are answered."""
        if self._rows is None or name != self._name:
            self.__exit__(None, None, None)
            self._name = name
            self._rows = RowProgress(self._stream, f"asking {name}", unit="questions")
        self._rows.show(done, done / total)
