"""`multipart/related` bodies, as Cloud Storage's clients send them: what the object is, then its bytes.

Reference: RFC 2387; cloud.google.com/storage/docs/uploading-objects (multipart uploads).
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from kivnun.server.errors import ApiError
from kivnun.server.files.multipart import MAX_BOUNDARY_BYTES, FileWriter, ReceivedFile
from kivnun.server.vertex.checksums import Checksums, sum_file

MAX_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Upload:
    """An object that was received, and nobody was told of yet.

    Attributes:
        head: What the client says of it.
        file: Its bytes, under a temporary name.
        checksums: Of them.
    """

    head: Mapping[str, Any]
    file: ReceivedFile
    checksums: Checksums


class _Reader:
    """Turns the parser's callbacks into a head and a file."""

    def __init__(self, boundary: bytes, open_writer: Callable[[Mapping[str, Any]], FileWriter]) -> None:
        self.head: Mapping[str, Any] = {}
        self.writer: FileWriter | None = None
        self.is_complete = False
        self._open_writer = open_writer
        self._text = bytearray()
        self._num_parts = 0
        self._parser = MultipartParser(
            boundary,
            {  # pyright: ignore[reportArgumentType] - a TypedDict of callbacks
                "on_part_begin": self._begin_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        self._parser.write(data)

    def require_whole(self) -> FileWriter:
        if not self.is_complete or self.writer is None:
            raise ApiError(400, "The multipart body ends before its last boundary, or has fewer than two parts.")
        return self.writer

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts == 2:
            self.writer = self._open_writer(self.head)
        elif self._num_parts > 2:
            raise ApiError(400, "The multipart body has more than two parts: what the object is, and its bytes.")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self.writer is not None:
            self.writer.take(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_HEAD_BYTES:
            raise ApiError(400, f"The first part of the multipart body has more than {MAX_HEAD_BYTES} bytes.")

    def _end_part(self) -> None:
        if self._num_parts == 1:
            self.head = _read_head(bytes(self._text))

    def _end(self) -> None:
        self.is_complete = True


def _read_head(text: bytes) -> Mapping[str, Any]:
    try:
        head = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "The first part of the multipart body is no JSON.") from error
    if not isinstance(head, dict):
        raise ApiError(400, "The first part of the multipart body is no JSON object.")
    return head


async def receive_related(
    chunks: AsyncIterator[bytes], content_type: str, *, folder: Callable[[Mapping[str, Any]], Path], limit: int
) -> Upload:
    """Read such a body, writing its second part as it comes.

    Args:
        chunks: The body.
        content_type: Its header, with the boundary.
        folder: Where the file is written under a temporary name; it may refuse what the client says of the object.
        limit: Most bytes of the file.

    Raises:
        ApiError: 400 for what is no such body, 413 for a file that is too long, 415 for another kind of body.
    """
    reader = _Reader(_read_boundary(content_type), lambda head: FileWriter(folder(head), limit))
    try:
        async for chunk in chunks:
            reader.feed(chunk)
            if reader.writer is not None and reader.writer.is_full:
                await run_in_threadpool(reader.writer.write)
        writer = reader.require_whole()
        return await _finish(writer, reader.head)
    except MultipartParseError as error:
        _abandon(reader.writer)
        raise ApiError(400, f"We could not parse the multipart body of your request: {error}.") from error
    except BaseException:
        _abandon(reader.writer)
        raise


async def receive_media(chunks: AsyncIterator[bytes], head: Mapping[str, Any], *, folder: Path, limit: int) -> Upload:
    """Read a body that is the object's bytes and nothing else.

    Args:
        chunks: The body.
        head: What the address says of the object.
        folder: Where the file is written under a temporary name.
        limit: Most bytes of it.

    Raises:
        ApiError: 413 for a file that is too long.
    """
    writer = FileWriter(folder, limit)
    try:
        async for chunk in chunks:
            writer.take(chunk)
            if writer.is_full:
                await run_in_threadpool(writer.write)
        return await _finish(writer, head)
    except BaseException:
        _abandon(writer)
        raise


async def _finish(writer: FileWriter, head: Mapping[str, Any]) -> Upload:
    sha256 = await run_in_threadpool(writer.finish)
    found = await run_in_threadpool(sum_file, writer.path)
    return Upload(head, ReceivedFile(writer.path, "", writer.num_bytes, sha256), found)


def _abandon(writer: FileWriter | None) -> None:
    if writer is not None:
        writer.abandon()


def _read_boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary: Any = options.get(b"boundary", b"")
    if kind != b"multipart/related" or not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        told = f"'{content_type[:50]}'" if content_type else "none"
        raise ApiError(415, f"Unsupported content type {told}: send multipart/related with a boundary.")
    return boundary
