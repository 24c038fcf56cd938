"""What is told while a model is asked: how far it is, and when a service is tried again."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from kivnun.cli.asking_progress import AskingProgress
from kivnun.cli.output import tell


class AskingShown:
    """Takes the events of `kivnun.asking` and shows them on standard error.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._progress = AskingProgress(stream)

    def __enter__(self) -> Self:
        """The display itself."""
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._progress.__exit__(kind, error, trace)

    def log(self, event: str, fields: Mapping[str, object]) -> None:
        """Show an event.

        Args:
            event: Its name.
            fields: What it says.
        """
        if event in ("asked", "weighed"):
            self._show(event, str(fields["model"]), fields["done"], fields["num_requests"])
        elif event == "retrying":
            tell(f"{fields['model']}: {fields['problem']}; trying again in {fields['seconds']} s")
        elif event == "adapted":
            tell(f"{fields['model']}: {fields['change']}")

    def _show(self, event: str, model: str, done: object, total: object) -> None:
        if not isinstance(done, int) or not isinstance(total, int) or not total:
            return
        words = model if event == "asked" else f"{model} how likely right answers are"
        self._progress.show(words, done, total)
