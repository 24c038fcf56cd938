"""Documents, the chunks that they are cut into, and what a search finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MetadataValue = str | int | float | bool
"""What a document may be filtered by."""


@dataclass(frozen=True)
class Block:
    """A part of a document that belongs together: a paragraph, a list, a table or a piece of code.

    Attributes:
        start: First character in the document's text.
        end: One past its last character.
        heading: Headings above it, from the outermost, joined by ` > `; "" for none.
    """

    start: int
    end: int
    heading: str = ""


@dataclass(frozen=True)
class Document:
    """A document as it was read.

    Attributes:
        id: Its path below the folder that was indexed, with `#ID` for a record of a JSONL file.
        text: Its text in reading order, Unicode as in the file; offsets of chunks and citations count its characters.
        title: Its title, or "".
        metadata: What it may be filtered by: `source`, `kind`, and the keys of front matter or of its JSONL record.
        content_hash: SHA-256 of what was read, for finding what changed.
        blocks: Its parts in order, without overlap.
        notes: What a reader should know, such as a guessed encoding.
    """

    id: str
    text: str
    title: str
    metadata: Mapping[str, MetadataValue]
    content_hash: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read.

    Attributes:
        path: The file.
        problem: Why, in a few words.
    """

    path: str
    problem: str


@dataclass(frozen=True)
class Unchanged:
    """A document that is as it was, and was not read again.

    Attributes:
        id: Its id.
        content_hash: SHA-256 of what it is made from.
    """

    id: str
    content_hash: str


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: what is found, shown and cited.

    Attributes:
        document: Id of the document.
        number: Its place among the chunks of the document, from 0.
        start: First character in the document's text.
        end: One past its last character.
        text: The document's text between the two, unchanged.
        heading: Headings above it.
        metadata: The document's.
    """

    document: str
    number: int
    start: int
    end: int
    text: str
    heading: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])

    @property
    def id(self) -> str:
        """Its name in a store."""
        return f"{self.document}@{self.number}"


@dataclass(frozen=True)
class Hit:
    """A chunk that a search found.

    Attributes:
        chunk: The chunk.
        score: Higher is better; comparable only among the hits of one search.
        dense: Cosine to the query; None where vectors had no part.
        lexical: BM25; None where words had no part.
    """

    chunk: Chunk
    score: float
    dense: float | None = None
    lexical: float | None = None
