"""What leaves the command line: lines that cannot steer a terminal, and JSON in which any name of a file fits."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from kivnun.data.visible import make_visible

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120


def tell(text: str) -> None:
    """Say something on standard error; what stands in it may come from anybody's data."""
    sys.stderr.write("\n".join(make_visible(line) for line in text.split("\n")) + "\n")


def open_console() -> "Console":
    """Standard output for tables; a file or a pipe gets lines of one width, whatever terminal it was started in."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def to_json(value: object) -> str:
    """A report as JSON text for people and programs."""
    import orjson

    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n"
    except TypeError:
        # The name of a file need not be UTF-8; Python's writer escapes what is not, and its reader restores it.
        return json.dumps(value, indent=2, default=asdict) + "\n"
