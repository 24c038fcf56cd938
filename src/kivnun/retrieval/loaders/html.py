"""HTML (the WHATWG standard's parsing): headings, paragraphs, lists and tables in reading order."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed, TextBuilder
from kivnun.retrieval.loaders.text import decode_text

_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]{0,100}?encoding=[\"']([\w.:-]+)", re.IGNORECASE
)
_CHARSET_BYTES = 4096
# No text of a page holds a zero byte.
_NEXT_CELL = "\0"
_CELL_BORDER = re.compile(" ?\0 ?")
# Elements whose end tags are always written: how deep they nest tells how long parsing takes, which is quadratic.
_NESTING_TAG = re.compile(
    r"<(/?)(?:div|span|table|ul|ol|section|article|blockquote|font|b|i|em|strong|a)\b", re.IGNORECASE
)
_DEEPEST = 5000
_SPACES = re.compile(r"[ \t\n\f\r]+")

_UNREAD = frozenset(
    {"script", "style", "template", "noscript", "iframe", "object", "embed", "svg", "canvas", "head", "datalist"}
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# What stays together as one block.
_GROUPS = frozenset({"ul", "ol", "dl", "menu", "table", "pre", "blockquote", "listing", "xmp"})
_LISTS = frozenset({"ul", "ol", "menu"})
_PREFORMATTED = frozenset({"pre", "listing", "xmp", "textarea", "plaintext"})
_FLOW_NAMES = """
    address article aside body caption center dd details dialog dir div dt fieldset figcaption figure footer form
    header hgroup hr html legend li main optgroup option p search section select summary tbody tfoot thead
    tr
"""
# The other elements that begin a line (WHATWG HTML, 15.3.3 Flow content).
_FLOW = frozenset(_FLOW_NAMES.split())
_CELLS = frozenset({"td", "th"})


def load_html(data: bytes) -> Parsed:
    """The text of a page without its scripts, styles and navigation.

    Raises:
        CannotReadError: If the bytes are no text.
    """
    found = _CHARSET.search(data[:_CHARSET_BYTES])
    declared = (found[1] or found[2]).decode("ascii") if found else ""
    # Where the declaration could be read as ASCII, the page is neither.
    declared = "" if declared.lower().startswith(("utf-16", "utf-32")) else declared
    markup, notes = decode_text(data, declared or None)
    return read_markup(markup, notes=notes)


def read_markup(markup: str, *, title: str = "", notes: tuple[str, ...] = ()) -> Parsed:
    """The text of some HTML.

    Args:
        markup: The HTML.
        title: Its title, if something else than the markup says it.
        notes: What was found before.

    Raises:
        CannotReadError: If it nests too deeply to be parsed in any time.
    """
    _check_depth(markup)
    page = LexborHTMLParser(markup)
    walker = _Walker(_find_layout_tables(page))
    for is_entered, node in _visit(page):
        walker.enter(node) if is_entered else walker.leave(node)
    named = page.css_first("title")
    title = title or (named.text() if named else "")
    if walker.num_left_out:
        notes = (*notes, f"{walker.num_left_out} characters of navigation are left out")
    return walker.builder.finish(title, notes=notes)


def _check_depth(markup: str) -> None:
    depth = 0
    for tag in _NESTING_TAG.finditer(markup):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        if depth > _DEEPEST:
            raise CannotReadError(f"nests over {_DEEPEST:,} elements into each other")


def _visit(page: LexborHTMLParser) -> Iterator[tuple[bool, LexborNode]]:
    """Every node that is read, as it begins and as it ends; without recursion, for pages nest as deep as they like."""
    root = page.body or page.root
    stack: list[tuple[bool, LexborNode]] = [(True, root)] if root else []
    while stack:
        is_entered, node = stack.pop()
        yield is_entered, node
        if not is_entered or node.tag in _UNREAD or _is_navigation(node):
            continue
        stack.append((False, node))
        children: list[tuple[bool, LexborNode]] = []
        child = node.first_child
        while child is not None:
            children.append((True, child))
            child = child.next
        stack += reversed(children)


def _find_layout_tables(page: LexborHTMLParser) -> set[int]:
    """Tables that place the parts of a page, rather than hold rows: those with headings or other tables inside."""
    tables: list[int] = []
    found: set[int] = set()
    for is_entered, node in _visit(page):
        is_table = node.tag == "table"
        if is_entered and tables and (is_table or node.tag in _HEADINGS):
            found.add(tables[-1])
        if is_table and is_entered:
            tables.append(node.mem_id)
        elif is_table:
            tables.pop()
    return found


def _is_navigation(node: LexborNode) -> bool:
    return node.is_element_node and (node.tag == "nav" or node.attributes.get("role") == "navigation")


class _Walker:
    """Puts blocks together from the elements of a page, as they begin and end."""

    def __init__(self, layout_tables: set[int]) -> None:
        self.builder = TextBuilder()
        self.num_left_out = 0
        self._layout_tables = layout_tables
        self._inline: list[str] = []
        self._lines: list[str] = []
        self._groups = 0
        self._preformatted = 0
        self._numbers: list[int | None] = []
        self._rows = 0
        self._prefix = ""

    def enter(self, node: LexborNode) -> None:
        """Take the beginning of an element, or a text."""
        tag = node.tag or ""
        if node.is_text_node:
            text = node.text_content or ""
            self._inline.append(text if self._preformatted else _SPACES.sub(" ", text))
        elif _is_navigation(node):
            self.num_left_out += len("".join(node.text().split()))
        elif tag == "br":
            self._break()
        elif tag == "img":
            self._inline.append(f" {node.attributes.get('alt') or ''} ")
        elif tag in _HEADINGS:
            self._end_block()
        elif tag in _GROUPS or tag in _FLOW or tag in _PREFORMATTED or tag in _CELLS:
            self._begin(node, tag)

    def leave(self, node: LexborNode) -> None:
        """Take the end of an element."""
        tag = node.tag or ""
        if tag in _HEADINGS:
            self._end_line()
            self.builder.add_heading(_HEADINGS[tag], " ".join(self._lines))
            self._lines = []
        elif tag in _CELLS and self._rows:
            self._inline.append(_NEXT_CELL)
        elif tag in _GROUPS or tag in _FLOW or tag in _PREFORMATTED or tag in _CELLS:
            self._end(node, tag)
        elif tag == "html" or node.parent is None:
            self._end_block()

    def _break(self) -> None:
        if self._rows:
            self._inline.append(" ")
        else:
            self._end_line()

    def _begin(self, node: LexborNode, tag: str) -> None:
        is_group = self._is_group(node, tag)
        if not self._groups:
            self._end_block()
        elif tag != "tr" and self._rows:
            self._inline.append(" ")
        else:
            self._end_line()
        self._groups += is_group
        self._rows += is_group and tag == "table"
        self._preformatted += tag in _PREFORMATTED
        if tag in _LISTS:
            self._numbers.append(0 if tag == "ol" else None)
        elif tag == "li" and self._numbers:
            self._prefix = self._next_mark()

    def _end(self, node: LexborNode, tag: str) -> None:
        is_group = self._is_group(node, tag)
        if tag in _LISTS and self._numbers:
            self._numbers.pop()
        if is_group and tag == "table":
            self._rows -= 1
        if self._rows and tag not in ("tr", "caption"):
            self._inline.append(" ")
        else:
            self._end_line()
        self._groups -= is_group
        self._preformatted -= tag in _PREFORMATTED
        if not self._groups:
            self._end_block()

    def _is_group(self, node: LexborNode, tag: str) -> bool:
        return tag in _GROUPS and not (tag == "table" and node.mem_id in self._layout_tables)

    def _next_mark(self) -> str:
        number = self._numbers[-1]
        if number is not None:
            self._numbers[-1] = number = number + 1
        return "  " * (len(self._numbers) - 1) + (f"{number}. " if number else "- ")

    def _end_line(self) -> None:
        line = "".join(self._inline)
        if self._preformatted:
            line = line.removesuffix("\n")
        else:
            line = _SPACES.sub(" ", line).strip(" ").removesuffix(_NEXT_CELL).rstrip(" ")
        if line.strip(_NEXT_CELL + " \n"):
            self._lines.append(self._prefix + _CELL_BORDER.sub(" | ", line))
            self._prefix = ""
        self._inline = []

    def _end_block(self) -> None:
        self._end_line()
        self.builder.add("\n".join(self._lines))
        self._lines = []
