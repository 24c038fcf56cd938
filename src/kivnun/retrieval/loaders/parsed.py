"""What every loader gives: plain text in reading order and its blocks below their headings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kivnun.retrieval.passages import Block, MetadataValue

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_LARGEST_INTEGER = 2**63
_LONGEST_TITLE = 300


class CannotReadError(Exception):
    """A file has no text that can be had; the message says why in a few words."""


@dataclass(frozen=True)
class Parsed:
    """A file's text.

    Attributes:
        text: The text in reading order.
        blocks: Its parts in order, without overlap; together they hold all that is no white space.
        title: Its title, or "".
        metadata: What the file says about itself.
        notes: What a reader should know: what was guessed or left out.
    """

    text: str
    blocks: tuple[Block, ...]
    title: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])
    notes: tuple[str, ...] = ()


class Headings:
    """The headings above a place, as they come one after the other."""

    def __init__(self) -> None:
        self._above: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> bool:
        """Take the next heading, and tell whether it stands below the one before."""
        is_below = not self._above or self._above[-1][0] < level
        self._above = [(above, name) for above, name in self._above if above < level]
        self._above.append((level, " ".join(title.split())))
        return is_below

    def path(self) -> str:
        """All of them, from the outermost."""
        return " > ".join(name for _, name in self._above if name)


class TextBuilder:
    """Puts a text together block by block.

    A heading begins the block of what follows it, so that no passage is a heading alone.
    """

    def __init__(self) -> None:
        self.first_heading = ""
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._headings = Headings()
        self._pending: tuple[int, int] | None = None

    def add_heading(self, level: int, text: str) -> None:
        """Add a heading, 1 for the outermost."""
        if not text.strip():
            return
        self.first_heading = self.first_heading or " ".join(text.split())
        path = self._headings.path()
        if not self._headings.enter(level, text):
            self._flush(path)
        start, end = self._append(text)
        self._pending = (self._pending[0] if self._pending else start, end)

    def add(self, text: str) -> None:
        """Add a paragraph, a list, a table or a piece of code."""
        if not text.strip():
            return
        start, end = self._append(text)
        start = self._pending[0] if self._pending else start
        self._pending = None
        self._blocks.append(Block(start, end, self._headings.path()))

    def finish(
        self, title: str = "", metadata: Mapping[str, MetadataValue] | None = None, notes: tuple[str, ...] = ()
    ) -> Parsed:
        """The text as a whole; the first heading is its title where it has no other."""
        self._flush(self._headings.path())
        title = shorten_title(title) or shorten_title(self.first_heading)
        return Parsed("".join(self._pieces), tuple(self._blocks), title, metadata or {}, notes)

    def _append(self, text: str) -> tuple[int, int]:
        if self._pieces:
            self._pieces.append("\n\n")
            self._length += 2
        start = self._length
        self._pieces.append(text)
        self._length += len(text)
        return start, self._length

    def _flush(self, path: str) -> None:
        if self._pending:
            self._blocks.append(Block(*self._pending, path))
        self._pending = None


def cut_paragraphs(text: str, offset: int = 0, heading: str = "") -> tuple[Block, ...]:
    """The parts of a text between its empty lines.

    Args:
        text: The text.
        offset: Where it begins in the document.
        heading: The headings above it.
    """
    blocks: list[Block] = []
    start = 0
    for gap in [*_PARAGRAPH_END.finditer(text), None]:
        end = gap.start() if gap else len(text)
        if text[start:end].strip():
            blocks.append(Block(offset + start, offset + end, heading))
        start = gap.end() if gap else end
    return tuple(blocks)


def shorten_title(title: str) -> str:
    """A title on one line and of bounded length."""
    return " ".join(title.split())[:_LONGEST_TITLE]


def keep_scalars(values: Mapping[str, object]) -> tuple[dict[str, MetadataValue], list[str]]:
    """What of a mapping can be filtered by, and the names of what cannot; a list of plain values becomes one text."""
    kept: dict[str, MetadataValue] = {}
    dropped: list[str] = []
    for name, value in values.items():
        plain = _make_plain(value)
        if plain is None:
            dropped.append(str(name))
        else:
            kept[str(name)] = plain
    return kept, dropped


def _make_plain(value: object) -> MetadataValue | None:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_LARGEST_INTEGER <= value < _LARGEST_INTEGER else str(value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, list) and value and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(str(part) for part in value)
    # Dates of YAML.
    return value.isoformat() if hasattr(value, "isoformat") else None  # pyright: ignore[reportAttributeAccessIssue]
