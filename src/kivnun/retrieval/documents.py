"""Files and folders become documents; what cannot be read is told with its reason, and the rest goes on."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kivnun.errors import UserError
from kivnun.retrieval.loaders.docx import load_docx
from kivnun.retrieval.loaders.html import load_html
from kivnun.retrieval.loaders.jsonl import load_record
from kivnun.retrieval.loaders.markdown import load_markdown
from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed
from kivnun.retrieval.loaders.pdf import load_pdf
from kivnun.retrieval.loaders.text import load_text
from kivnun.retrieval.passages import Document, MetadataValue, Unchanged, Unreadable

READING_VERSION = "1"
"""Changes whenever some file gives another text than before."""

LARGEST_FILE_BYTES = 128 << 20
LONGEST_LINE_BYTES = 16 << 20

LOADERS: Mapping[str, Callable[[bytes], Parsed]] = {
    ".txt": load_text,
    ".text": load_text,
    ".md": load_markdown,
    ".markdown": load_markdown,
    ".html": load_html,
    ".htm": load_html,
    ".xhtml": load_html,
    ".pdf": load_pdf,
    ".docx": load_docx,
}
"""How a file is read, by how its name ends."""

RECORD_SUFFIXES = (".jsonl", ".ndjson")
_KINDS = {".text": "txt", ".markdown": "md", ".htm": "html", ".xhtml": "html", ".ndjson": "jsonl"}
# Zero bytes, and halves of surrogate pairs, which JSON can spell.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_READ = "txt, md, html, pdf, docx, jsonl"

Found = Document | Unreadable | Unchanged


def read_documents(paths: Sequence[Path], *, skip: Mapping[str, str] | None = None) -> Iterator[Found]:
    """Read every document of some files and folders, folders with all that is below them, in the order of names.

    Args:
        paths: Files and folders.
        skip: Content hashes by id of documents that are known: one whose hash is the same is not read again.

    Raises:
        UserError: `document-unreadable`, if one of the paths does not exist.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(
            "document-unreadable",
            "there is no such file or folder",
            details=missing,
            hint="name files or folders that exist",
        )
    places: dict[str, str] = {}
    for path in paths:
        for file, identity in _find_files(path):
            if isinstance(file, Unreadable):
                yield file
                continue
            for found in _read_file(file, identity, skip or {}):
                if isinstance(found, Unreadable):
                    yield found
                elif found.id in places:
                    yield Unreadable(str(file), f"has the id {found.id} of {places[found.id]}, which was read before")
                else:
                    places[found.id] = str(file)
                    yield found


def _find_files(path: Path) -> Iterator[tuple[Path | Unreadable, str]]:
    """The files of a path with their ids, and what is left out."""
    if not path.is_dir():
        yield path, _spell(path.name)
        return
    for found in _walk(path):
        yield found, _spell(found.relative_to(path).as_posix()) if isinstance(found, Path) else ""


def _walk(folder: Path) -> Iterator[Path | Unreadable]:
    """All files below a folder in the order of their names; a folder that is reached twice, by a link, is told."""
    seen: dict[tuple[int, int], Path] = {}
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                yield path
                continue
            first = seen.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield Unreadable(str(path), f"is a link to {first}, which is read already")
                continue
            names = sorted(entry.name for entry in os.scandir(path))
        except OSError as error:
            yield Unreadable(str(path), _say(error))
            continue
        for name in names:
            if name.startswith("."):
                yield Unreadable(str(path / name), "is hidden (its name begins with a dot)")
        waiting += [path / name for name in reversed(names) if not name.startswith(".")]


def _read_file(path: Path, identity: str, skip: Mapping[str, str]) -> Iterator[Found]:
    suffix = path.suffix.lower()
    try:
        if suffix in RECORD_SUFFIXES:
            yield from _read_records(path, identity, skip)
        elif suffix in LOADERS:
            yield _read_whole(path, identity, skip)
        else:
            yield Unreadable(str(path), f"is of no kind that is read ({_READ})")
    except CannotReadError as error:
        yield Unreadable(str(path), str(error))
    except OSError as error:
        yield Unreadable(str(path), _say(error))


def _read_whole(path: Path, identity: str, skip: Mapping[str, str]) -> Document | Unchanged:
    size = _check_file(path)
    if size > LARGEST_FILE_BYTES:
        raise CannotReadError(f"has over {LARGEST_FILE_BYTES >> 20} MiB, which is more than is read")
    data = path.read_bytes()
    if not data.strip():
        raise CannotReadError("is empty")
    content_hash = hashlib.sha256(data).hexdigest()
    if skip.get(identity) == content_hash:
        return Unchanged(identity, content_hash)
    return _make_document(identity, LOADERS[path.suffix.lower()](data), path, content_hash)


def _read_records(path: Path, identity: str, skip: Mapping[str, str]) -> Iterator[Found]:
    """The records of a JSONL file, one at a time; a line that is none is told, and the next one read."""
    _check_file(path)
    lines: dict[str, int] = {}
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE_BYTES):
            number += 1
            if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
                raise CannotReadError(f"line {number} has over {LONGEST_LINE_BYTES >> 20} MiB; the rest is not read")
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            yield _read_record(line, number, path, identity, lines, skip)


def _read_record(
    line: bytes, number: int, path: Path, file_id: str, lines: dict[str, int], skip: Mapping[str, str]
) -> Found:
    try:
        name, parsed = load_record(line)
        if _UNSTORABLE.search(name):
            return Unreadable(str(path), f"line {number} has an `id` with a zero byte or half a surrogate pair")
        identity = f"{file_id}#{_spell(name)}"
        if lines.setdefault(identity, number) != number:
            return Unreadable(str(path), f"line {number} has the id {name!r} of line {lines[identity]}")
        content_hash = hashlib.sha256(line.strip()).hexdigest()
        if skip.get(identity) == content_hash:
            return Unchanged(identity, content_hash)
        return _make_document(identity, parsed, path, content_hash)
    except CannotReadError as error:
        return Unreadable(str(path), f"line {number} {error}")


def _make_document(identity: str, parsed: Parsed, path: Path, content_hash: str) -> Document:
    text = _make_storable(parsed.text)
    if not text.strip():
        raise CannotReadError("has no text")
    replaced = sum(before != after for before, after in zip(parsed.text, text, strict=True))
    said = (f"{replaced} characters that cannot be stored stand as \N{REPLACEMENT CHARACTER}",) if replaced else ()
    suffix = path.suffix.lower()
    metadata: dict[str, MetadataValue] = {"source": _spell(str(path)), "kind": _KINDS.get(suffix, suffix[1:])}
    for name, value in parsed.metadata.items():
        metadata[_make_storable(name)] = _make_storable(value) if isinstance(value, str) else value
    notes = (*parsed.notes, *said)
    blocks = tuple(replace(block, heading=_make_storable(block.heading)) for block in parsed.blocks)
    return Document(identity, text, _make_storable(parsed.title), metadata, content_hash, blocks, notes)


def _make_storable(text: str) -> str:
    """A text of the same length without zero bytes and halves of surrogate pairs, which no store takes."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _spell(name: str) -> str:
    """A name as text: bytes of file names that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_file(path: Path) -> int:
    """The size of a file that can be read to its end: from a pipe or a device one would wait for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CannotReadError("is no file, but a pipe or a device")
    if not status.st_size:
        raise CannotReadError("is empty")
    return status.st_size


def _say(error: OSError) -> str:
    return f"cannot be opened: {error.strerror or error}"
