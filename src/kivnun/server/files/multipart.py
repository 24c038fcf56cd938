"""Multipart bodies on their way to the disk: the file is written as it comes, and is never in memory as a whole.

The framework's own reader spools a file to the temporary folder first; two gigabytes would lie on the disk twice.
Reference: RFC 7578.
"""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error
from kivnun.server.errors import ApiError, invalid
from kivnun.server.middleware import too_large

MAX_FIELD_BYTES = 1 << 16
MAX_FIELDS = 32
# RFC 2046, section 5.1.1.
MAX_BOUNDARY_BYTES = 70
WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class ReceivedFile:
    """A file on the disk that nobody was told of yet.

    Attributes:
        path: Under a temporary name.
        filename: What the client calls it; text alone, never a path.
        num_bytes: Its size.
        sha256: Of its bytes, in hexadecimal.
    """

    path: Path
    filename: str
    num_bytes: int
    sha256: str

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Form:
    """A multipart body.

    Attributes:
        fields: Everything that is text, by name.
        file: The file.
    """

    fields: Mapping[str, str]
    file: ReceivedFile


@dataclass
class _Part:
    name: str
    filename: str | None
    text: bytearray = field(default_factory=bytearray)


class FileWriter:
    """A file on its way to the disk: a temporary name, a hash, a size, and a buffer that saves system calls."""

    def __init__(self, folder: Path, limit: int, refuse: Callable[[int], ApiError] = too_large) -> None:
        """Create the file.

        Args:
            folder: Where it lies.
            limit: Most bytes of it.
            refuse: What is answered for more, by the limit.
        """
        self.path = folder / f".{secrets.token_hex(16)}{PARTIAL_SUFFIX}"
        self.num_bytes = 0
        self._limit = limit
        self._refuse = refuse
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._file = self.path.open("xb", buffering=0)

    def take(self, data: memoryview | bytes) -> None:
        """Keep some bytes until `write`.

        Args:
            data: The next ones.

        Raises:
            ApiError: For more bytes than it may have.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._limit:
            raise self._refuse(self._limit)
        self._buffer += data

    @property
    def is_full(self) -> bool:
        """Whether it is time to write."""
        return len(self._buffer) >= WRITE_BYTES

    def write(self) -> None:
        """Write what was kept."""
        buffer, self._buffer = self._buffer, bytearray()
        self._digest.update(buffer)
        view = memoryview(buffer)
        with disk_full_as_user_error(self.path):
            while view:
                view = view[self._file.write(view) :]

    def finish(self) -> str:
        """Everything on the disk; returns the hash."""
        self.write()
        with disk_full_as_user_error(self.path):
            os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class _FormReader:
    """Turns the parser's callbacks into fields and one file."""

    def __init__(self, boundary: bytes, file_field: str, open_writer: Callable[[], FileWriter]) -> None:
        self.fields: dict[str, str] = {}
        self.writer: FileWriter | None = None
        self.filename = ""
        self.is_complete = False
        self._file_field = file_field
        self._open_writer = open_writer
        self._part: _Part | None = None
        self._headers: dict[str, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {  # pyright: ignore[reportArgumentType] - a TypedDict of callbacks
                "on_part_begin": self._begin_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_header_field": self._take_name,
                "on_header_value": self._take_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        self._parser.write(data)

    def require_whole(self) -> FileWriter:
        if not self.is_complete:
            raise ApiError(400, "The multipart body ends before its last boundary.")
        if self.writer is None:
            name = self._file_field
            message = f"Missing required parameter: '{name}'."
            raise ApiError(400, message, param=name, code="missing_required_parameter")
        return self.writer

    def _begin_part(self) -> None:
        self._headers = {}

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._name).decode("latin-1").lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = _text(options.get(b"name", b""), "name")
        filename = options.get(b"filename")
        if not name:
            raise ApiError(400, "A part of the multipart body has no name in its Content-Disposition.")
        if name in self.fields or (name == self._file_field and self.writer is not None):
            raise invalid(name[:100], f"The field '{name[:100]}' is given twice.")
        if len(self.fields) >= MAX_FIELDS:
            raise ApiError(400, f"The multipart body has more than {MAX_FIELDS} fields.")
        self._part = _Part(name, None if filename is None else _text(filename, "filename"))
        if name == self._file_field:
            self.filename = self._part.filename or ""
            self.writer = self._open_writer()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            return
        if part.name == self._file_field and self.writer is not None:
            self.writer.take(memoryview(data)[start:end])
            return
        part.text += data[start:end]
        if len(part.text) > MAX_FIELD_BYTES:
            raise invalid(part.name[:100], f"The field '{part.name[:100]}' is too long.")

    def _end_part(self) -> None:
        if self._part is not None and self._part.name != self._file_field:
            self.fields[self._part.name] = _text(bytes(self._part.text), self._part.name)
        self._part = None

    def _end(self) -> None:
        self.is_complete = True


async def receive_form(
    chunks: AsyncIterator[bytes],
    content_type: str,
    *,
    file_field: str,
    folder: Path,
    limit: int,
    refuse: Callable[[int], ApiError] = too_large,
) -> Form:
    """Read a multipart body, writing its file as it comes.

    Args:
        chunks: The body.
        content_type: Its header, with the boundary.
        file_field: The name of the part that is the file.
        folder: Where the file is written, under a temporary name.
        limit: Most bytes of it.
        refuse: What is answered for more, by the limit.

    Raises:
        ApiError: 400 for what is no multipart body or lacks the file, and as `refuse` says for a file that is too long.
    """
    reader = _FormReader(_read_boundary(content_type), file_field, lambda: FileWriter(folder, limit, refuse))
    try:
        async for chunk in chunks:
            reader.feed(chunk)
            if reader.writer is not None and reader.writer.is_full:
                await run_in_threadpool(reader.writer.write)
        writer = reader.require_whole()
        sha256 = await run_in_threadpool(writer.finish)
    except FormParserError as error:
        _abandon(reader)
        raise ApiError(400, f"We could not parse the multipart body of your request: {error}.") from error
    except BaseException:
        _abandon(reader)
        raise
    return Form(reader.fields, ReceivedFile(writer.path, reader.filename, writer.num_bytes, sha256))


def describe_form(file_field: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    """What `/openapi.json` says of a body that the framework does not read.

    Args:
        file_field: The name of the part that is the file.
        fields: The names of the others.
    """
    properties: dict[str, Any] = {name: {"type": "string"} for name in fields}
    properties[file_field] = {"type": "string", "format": "binary"}
    schema = {"type": "object", "properties": properties, "required": [file_field]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _abandon(reader: _FormReader) -> None:
    if reader.writer is not None:
        reader.writer.abandon()


def _read_boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary: Any = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        told = f"'{content_type[:50]}'" if content_type else "none"
        raise ApiError(415, f"Unsupported content type {told}: send multipart/form-data with a boundary.")
    return boundary


def _text(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(name[:100], f"The field '{name[:100]}' of the multipart body is not UTF-8.") from error
    if "\0" in text:
        raise invalid(name[:100], f"The field '{name[:100]}' holds the character NUL, which is not allowed.")
    return text
