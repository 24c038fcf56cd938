"""Markdown (CommonMark 0.31 with tables): the text as it is written, cut where its blocks are."""

import io
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kivnun.retrieval.loaders.parsed import Headings, Parsed, keep_scalars, shorten_title
from kivnun.retrieval.loaders.text import decode_text
from kivnun.retrieval.passages import Block, MetadataValue

_FRONT_MATTER = re.compile(r"---[^\S\n]*\n(.*?\n)??(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_LARGEST_FRONT_MATTER = 1 << 16


def load_markdown(data: bytes) -> Parsed:
    """The text of a Markdown file without its front matter, which becomes metadata.

    Raises:
        CannotReadError: If the bytes are no text.
    """
    text, notes = decode_text(data)
    text, metadata, said = _take_front_matter(text)
    headings = Headings()
    first_heading = ""
    blocks: list[Block] = []
    pending: int | None = None
    path = ""
    for level, title, start, end in _find_blocks(text):
        if level:
            first_heading = first_heading or title
            if not headings.enter(level, title) and pending is not None:
                blocks.append(Block(pending, start, path))
                pending = None
            pending = start if pending is None else pending
            path = headings.path()
        else:
            blocks.append(Block(start if pending is None else pending, end, path))
            pending = None
    if pending is not None:
        blocks.append(Block(pending, len(text), path))
    title = shorten_title(str(metadata.pop("title", "")) or first_heading)
    return Parsed(text, tuple(blocks), title, metadata, (*notes, *said))


def _take_front_matter(text: str) -> tuple[str, dict[str, MetadataValue], tuple[str, ...]]:
    """The text behind the front matter, its plain values, and what of it was not kept."""
    found = _FRONT_MATTER.match(text[:_LARGEST_FRONT_MATTER])
    if not found or not (found[1] or "").strip():
        return text, {}, ()
    try:
        values = YAML(typ="safe", pure=True).load(io.StringIO(found[1]))
    except (YAMLError, ValueError, RecursionError):
        return text, {}, ("its front matter is not YAML and is read as text",)
    if not isinstance(values, dict):
        # Text between two rules.
        return text, {}, ()
    kept, dropped = keep_scalars(values)
    said = (f"values of its front matter that cannot be filtered by: {', '.join(dropped)}",) if dropped else ()
    return text[found.end() :], kept, said


def _find_blocks(text: str) -> Iterator[tuple[int, str, int, int]]:
    """Level (0 for what is no heading), title, start and end of every block at the top of a document."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(min(starts[-1] + len(line) + 1, len(text)))
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    for place, token in enumerate(tokens):
        if token.level or token.nesting < 0 or not token.map:
            continue
        start, end = starts[token.map[0]], starts[token.map[1]]
        level = int(token.tag[1]) if token.type == "heading_open" else 0
        yield level, _read_title(tokens[place + 1]) if level else "", start, end


def _read_title(inline: Token) -> str:
    """A heading without its marks of emphasis and links."""
    parts = (child.content or (" " if child.type == "softbreak" else "") for child in inline.children or [])
    return "".join(parts).strip() or inline.content
