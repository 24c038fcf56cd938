"""PDF: the text of every page as PDFium finds it, with Hebrew and Arabic in the order in which they are read."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pypdfium2
import pypdfium2.raw as pdfium

from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed, cut_paragraphs, shorten_title
from kivnun.retrieval.loaders.visual_order import is_right_to_left, order_line

MOST_CHARACTERS = 50_000_000

_RIGHT_LETTER = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# PDFium joins lines at most hyphens itself, and writes U+0002 or U+FFFE in their place.
_HYPHEN = re.compile("(?<=[A-Za-zÀ-ɏ])(?:[\x02\ufffe]\n?|[-\u00ad\u2010]\n)(?=[a-zß-ɏ])")
_SURE_HYPHEN = re.compile("[\ufffe\x02]")


@dataclass(frozen=True)
class _Letter:
    text: str
    left: float
    bottom: float
    right: float
    top: float


def load_pdf(data: bytes) -> Parsed:
    """The text of a PDF, page after page.

    Raises:
        CannotReadError: If it is encrypted, broken, or pictures of text.
    """
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        raise CannotReadError("is encrypted" if encrypted else f"is no PDF that can be opened ({error})") from None
    try:
        title = document.get_metadata_value("Title")
        pages = list(_read_pages(document))
    except pypdfium2.PdfiumError as error:
        raise CannotReadError(f"is broken ({error})") from None
    finally:
        document.close()
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise CannotReadError("has no text (scanned?)")
    bare = [str(number) for number, page in enumerate(pages, start=1) if not page]
    notes = (f"pages without text (scanned?): {', '.join(bare)}",) if bare else ()
    return Parsed(text, cut_paragraphs(text), shorten_title(title), {"pages": len(pages)}, notes)


def _read_pages(document: pypdfium2.PdfDocument) -> Iterator[str]:
    total = 0
    for page in document:
        text_page = page.get_textpage()
        text = text_page.get_text_bounded().replace("\r\n", "\n").replace("\r", "\n")
        if _RIGHT_LETTER.search(text):
            text = _read_both_ways(text_page)
        text_page.close()
        page.close()
        text = _SURE_HYPHEN.sub("-", _HYPHEN.sub("", text)).strip()
        total += len(text)
        if total > MOST_CHARACTERS:
            raise CannotReadError(f"has over {MOST_CHARACTERS:,} characters")
        yield text


def _read_both_ways(page: pypdfium2.PdfTextPage) -> str:
    """The lines of a page that holds letters of a script written from right to left."""
    lines: list[list[tuple[str, int]]] = [[]]
    high = ""
    for place in range(page.count_chars()):
        letter = high + chr(pdfium.FPDFText_GetUnicode(page, place))
        high = letter if len(letter) == 1 and "\ud800" <= letter <= "\udbff" else ""
        if letter == "\n":
            lines.append([])
        elif not high and letter not in "\0\r":
            lines[-1].append((letter.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), place))
    letters = [letter for line in lines for letter, _ in line if letter.isalpha()]
    page_is = sum(bool(_RIGHT_LETTER.match(letter)) for letter in letters) * 2 > len(letters)
    return "\n".join(_read_line(page, line, page_is=page_is) for line in lines)


def _read_line(page: pypdfium2.PdfTextPage, line: Sequence[tuple[str, int]], *, page_is: bool) -> str:
    found = "".join(letter for letter, _ in line)
    if not _RIGHT_LETTER.search(found):
        return found
    drawn = [_Letter(letter, *page.get_charbox(place, loose=True)) for letter, place in line if not letter.isspace()]
    if not _is_level(drawn):
        return found
    seen = _see(drawn, num_spaces=len(found.split()) - 1)
    return order_line(seen, right_to_left=is_right_to_left(seen, page_is=page_is)).strip()


def _is_level(letters: Sequence[_Letter]) -> bool:
    """Whether letters stand beside each other, not below or turned."""
    middles = [(letter.bottom + letter.top) / 2 for letter in letters]
    return max(middles) - min(middles) <= max(letter.top - letter.bottom for letter in letters)


def _see(letters: Sequence[_Letter], *, num_spaces: int) -> list[str]:
    """The letters of a line from left to right, each with its marks, and spaces in the widest gaps.

    Where spaces stand is not taken from the file: PDFium places those of a line that was turned on the wrong side.
    """
    bases = [letter for letter in letters if not unicodedata.combining(letter.text[0])]
    if not bases:
        return [letter.text for letter in letters]
    bases.sort(key=lambda letter: (letter.left + letter.right) / 2)
    marked = [[base] for base in bases]
    for mark in letters:
        if unicodedata.combining(mark.text[0]):
            marked[_find_base(mark, bases)].append(mark)
    gaps = [min(_.left for _ in after) - max(_.right for _ in before) for before, after in pairwise(marked)]
    spaced = set(sorted(range(len(gaps)), key=lambda place: -gaps[place])[:num_spaces])
    seen: list[str] = []
    for place, cluster in enumerate(marked):
        seen.append("".join(letter.text for letter in cluster))
        if place in spaced:
            seen.append(" ")
    return seen


def _find_base(mark: _Letter, bases: Sequence[_Letter]) -> int:
    """The letter that a point stands on, or else the next one to its right."""
    middle = (mark.left + mark.right) / 2
    for place, base in enumerate(bases):
        if base.right >= middle:
            return place
    return len(bases) - 1
