"""Word documents (ECMA-376 WordprocessingML): mammoth makes HTML of them, which is read as other HTML is."""

import html
import io
import re
import zipfile
from xml.parsers.expat import ExpatError

import mammoth

from kivnun.retrieval.loaders.html import read_markup
from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed

LARGEST_UNPACKED_BYTES = 256 << 20
"""Most bytes of the text parts together: what a small file unpacks to need not be small."""

_MAIN_PART = "word/document.xml"
_TITLE = re.compile(r"<dc:title>([^<]*)</dc:title>")
_MARGIN_PART = re.compile(r"word/(?:header|footer)\d*\.xml")
_TEXT_RUN = re.compile(rb"<w:t[ >]")


def load_docx(data: bytes) -> Parsed:
    """The text of a Word document with its headings, lists, tables and notes.

    Raises:
        CannotReadError: If it is no such document, encrypted, or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            title, notes = _inspect(archive)
        result = mammoth.convert_to_html(
            io.BytesIO(data), convert_image=mammoth.images.img_element(lambda _: {}), include_embedded_style_map=False
        )
    except zipfile.BadZipFile:
        # Word encrypts a document by wrapping it into an OLE file, which old .doc files are too.
        wrapped = data.startswith(b"\xd0\xcf\x11\xe0")
        raise CannotReadError("is encrypted, or an old .doc" if wrapped else "is no Word document") from None
    except (ExpatError, KeyError, IndexError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CannotReadError(f"is a broken Word document ({type(error).__name__}: {error})") from None
    return read_markup(str(result.value), title=title, notes=notes)


def _inspect(archive: zipfile.ZipFile) -> tuple[str, tuple[str, ...]]:
    """The title that the file says, and what of it will not be read.

    Raises:
        CannotReadError: If it unpacks to too much, or its XML declares entities, which can grow without bound.
    """
    parts = {part.filename: part for part in archive.infolist() if part.filename.endswith((".xml", ".rels"))}
    if _MAIN_PART not in parts and not any(name.startswith("word/") for name in parts):
        raise CannotReadError("is no Word document")
    size = sum(part.file_size for part in parts.values())
    if size > LARGEST_UNPACKED_BYTES:
        raise CannotReadError(f"unpacks to {size >> 20} MiB; at most {LARGEST_UNPACKED_BYTES >> 20} are read")
    contents = {name: archive.read(part) for name, part in parts.items()}
    if any(b"<!DOCTYPE" in content or b"<!ENTITY" in content for content in contents.values()):
        raise CannotReadError("declares XML entities, as no Word document does")
    found = _TITLE.search(contents.get("docProps/core.xml", b"").decode("utf-8", "replace"))
    has_margins = any(_MARGIN_PART.fullmatch(name) and _TEXT_RUN.search(text) for name, text in contents.items())
    notes = ("headers and footers of its pages are left out",) if has_margins else ()
    return html.unescape(found[1]) if found else "", notes
