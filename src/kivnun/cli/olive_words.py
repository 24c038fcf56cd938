"""What Olive's commands have in common: their help, the table of their flags, and how much is said."""

import json
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.olive.flags import Flag, Given
    from kivnun.olive.translation import Translation

FREE_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}
"""What typer is told of a command that reads its flags itself."""

WARNING_EVENTS = frozenset(
    ("not_learnt", "overfitting", "checkpoint_damaged", "tracker_failed", "micro_batch", "context_limit")
)


def read_words(
    command: str, words: Sequence[str], flags: "Sequence[Flag]", *, about: str, usage: str, argument: str | None = None
) -> "Given":
    """The flags of a command; with `--help`, its help, and the end.

    Args:
        command: Its name.
        words: What stands behind it.
        flags: Every flag that it has.
        about: One line on what it does.
        usage: What may stand behind it.
        argument: What a word without a flag is.
    """
    from kivnun.olive.flags import read_flags, say_help

    if {"--help", "-h"} & set(words):
        typer.echo(say_help(command, about, usage, flags))
        raise typer.Exit
    return read_flags(command, words, flags, argument=argument)


def read_level(given: "Given") -> int:
    """How little is said: `--log_level`, or everything."""
    level = given.values.get("log_level", 1)
    return level if isinstance(level, int) else 1


def tell_translation(translation: "Translation", given: "Given") -> None:
    """Say on standard error what each flag became, unless errors alone are asked for."""
    if read_level(given) > 2:
        return
    for line in translation.lines:
        value = "" if line.value is None else f" {line.value}"
        became = " -> ".join(
            filter(None, [line.key + value, line.target or (line.outcome if line.outcome != "own" else "")])
        )
        whose = {"default": " (Olive's default)", "own": " (Kivnun's own)"}.get(line.outcome, "")
        tell(f"  {became}{whose if line.value is not None else ''}{f'; {line.note}' if line.note else ''}")
    for note in translation.notes:
        tell(f"  note: {note}")


def say_plan(lines: Sequence[str], *, as_json: bool) -> None:
    """Print on standard output what would be done."""
    from kivnun.data.visible import make_visible

    if as_json:
        typer.echo(json.dumps({"plan": list(lines)}, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(make_visible(line))


class Said:
    """Progress at the level that `--log_level` asks for.

    Args:
        given: The flags.
    """

    def __init__(self, given: "Given") -> None:
        from kivnun.cli.progress import Progress

        self.level = read_level(given)
        self._progress = Progress(sys.stderr)

    def __enter__(self) -> Self:
        """The display itself."""
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._progress.__exit__(kind, error, trace)

    def show(self, event: str, fields: Mapping[str, object]) -> None:
        """Show an event, if the level lets it through."""
        if self.level <= 1 or (self.level == 2 and event in WARNING_EVENTS):
            self._progress.show(event, fields)
