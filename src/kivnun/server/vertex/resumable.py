"""Uploads in pieces, which google-cloud-storage takes for files above 8 MiB: a session, then the bytes in order.

A client whose piece was cut off asks how much has come and goes on there. Sessions live in memory: after a restart of
the server their addresses are not known any more, which clients take as the word to begin anew.

Reference: cloud.google.com/storage/docs/performing-resumable-uploads; RFC 9110, section 14.4, for `Content-Range`.
"""

import asyncio
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from kivnun.server.errors import ApiError
from kivnun.server.files.multipart import FileWriter, ReceivedFile
from kivnun.server.middleware import too_large
from kivnun.server.vertex.checksums import sum_file
from kivnun.server.vertex.related import Upload

IDLE_SECONDS = 3600.0
MOST_OF_A_PROJECT, MOST = 16, 128
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True)
class Piece:
    """What a request says of the bytes that it brings.

    Attributes:
        start: Place of the first byte; None where it brings none and asks how much has come.
        count: Bytes that it brings; None for as many as there are.
        total: Bytes of the whole object; None where that is not known yet.
    """

    start: int | None
    count: int | None
    total: int | None


def read_range(header: str) -> Piece:
    """A `Content-Range`.

    Args:
        header: Empty where the whole object comes at once.

    Raises:
        ApiError: 400.
    """
    if not header:
        return Piece(0, None, None)
    match = _RANGE.fullmatch(header)
    if match is None:
        raise _unreadable(header)
    start, end, size = match.groups()
    total = None if size == "*" else int(size)
    if start is None:
        return Piece(None, 0, total)
    first, last = int(start), int(end)
    if not first <= last < (last + 1 if total is None else total):
        raise _unreadable(header)
    return Piece(first, last + 1 - first, total)


def _unreadable(header: str) -> ApiError:
    message = f"The header Content-Range cannot be read: {header[:100]!r}; say 'bytes FIRST-LAST/TOTAL'."
    return ApiError(400, message, param="Content-Range")


@dataclass(eq=False)
class Session:
    """An object on its way.

    Attributes:
        upload_id: Its address's secret part.
        project_id: Whose it is.
        root: Folder of the bucket.
        head: What the client says of the object; its name is among it.
        writer: The bytes that came.
        total: How many there will be; None until the client says.
        used_at: When a request was here last, in seconds of the monotonic clock.
        done: What the client was told at the end.
        lock: Held by the request that brings bytes.
    """

    upload_id: str
    project_id: str
    root: Path
    head: Mapping[str, Any]
    writer: FileWriter
    total: int | None
    used_at: float = field(default_factory=time.monotonic)
    done: Mapping[str, Any] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def expect(self, piece: Piece) -> None:
        """Look whether a request can go on here, before any of its bytes are taken.

        Args:
            piece: What it says of its bytes.

        Raises:
            ApiError: 400.
        """
        if None not in (piece.total, self.total) and piece.total != self.total:
            message = f"The object was to have {self.total} bytes, and now {piece.total}."
            raise ApiError(400, message, param="Content-Range")
        here = self.writer.num_bytes
        if piece.start is not None and piece.start > here:
            raise ApiError(400, f"Bytes {here} to {piece.start - 1} have not come yet.", param="Content-Range")

    async def receive(self, piece: Piece, chunks: AsyncIterator[bytes]) -> bool:
        """Take the bytes of a request, those that came before left out; whether all are here now.

        Args:
            piece: What `expect` took.
            chunks: The body.

        Raises:
            ApiError: 400 where they are not as many as was said, 413 for too many; what came is of no use then.
            ClientDisconnect: What came until then is kept.
        """
        if piece.total is not None:
            self.total = piece.total
        came = await self._take(chunks, self.writer.num_bytes - (piece.start or 0), piece.count)
        if piece.count is None and self.total is None:
            self.total = self.writer.num_bytes
        if piece.count not in (None, came) or self.writer.num_bytes > (self.total or self.writer.num_bytes):
            said = piece.count if piece.count is not None else self.total
            raise ApiError(400, f"{said} bytes were announced, and {came} came.", param="Content-Range")
        return self.writer.num_bytes == self.total

    async def finish(self, head: Mapping[str, Any]) -> Upload:
        """Put everything on the disk.

        Args:
            head: What the client says of the object, at the end.
        """
        sha256 = await run_in_threadpool(self.writer.finish)
        found = await run_in_threadpool(sum_file, self.writer.path)
        return Upload(head, ReceivedFile(self.writer.path, "", self.writer.num_bytes, sha256), found)

    async def _take(self, chunks: AsyncIterator[bytes], known: int, most: int | None) -> int:
        came = 0
        try:
            async for chunk in chunks:
                skipped = min(len(chunk), max(0, known - came))
                came += len(chunk)
                if most is not None and came > most:
                    raise ApiError(400, f"{most} bytes were announced, and more came.", param="Content-Range")
                self.writer.take(memoryview(chunk)[skipped:])
                if self.writer.is_full:
                    await run_in_threadpool(self.writer.write)
        except ClientDisconnect:
            # What came stays; the client asks for it when it is back.
            await run_in_threadpool(self.writer.write)
            raise
        return came


class ResumableUploads:
    """The sessions of all projects."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def begin(self, project_id: str, root: Path, head: Mapping[str, Any], total: int | None, limit: int) -> Session:
        """A new one.

        Args:
            project_id: Whose it is.
            root: Folder of the bucket.
            head: What the client says of the object.
            total: How many bytes it says there will be.
            limit: Most bytes.

        Raises:
            ApiError: 413 for an object that would be too long, 429 where too many are open.
        """
        if total is not None and total > limit:
            raise too_large(limit)
        with self._lock:
            self._forget()
            open_ = [each for each in self._sessions.values() if each.done is None]
            own = sum(each.project_id == project_id for each in open_)
            if own >= MOST_OF_A_PROJECT or len(open_) >= MOST:
                message = f"Too many uploads in pieces are open, {own} of them in this project; end them, or wait."
                raise ApiError(429, message, type="requests", code="rate_limit_exceeded")
            session = Session(secrets.token_urlsafe(24), project_id, root, head, FileWriter(root, limit), total)
            self._sessions[session.upload_id] = session
        return session

    def find(self, project_id: str, root: Path, upload_id: str) -> Session:
        """A session of the caller's project.

        Args:
            project_id: Who asks.
            root: Folder of the bucket.
            upload_id: As the client names it.

        Raises:
            ApiError: 404.
        """
        with self._lock:
            session = self._sessions.get(upload_id)
            if session is None or (session.project_id, session.root) != (project_id, root):
                raise ApiError(404, "There is no such upload, or it is over: begin it anew.", param="upload_id")
            session.used_at = time.monotonic()
            return session

    def drop(self, session: Session) -> None:
        """Forget a session and what came of its object.

        Args:
            session: Of `begin`.
        """
        with self._lock:
            self._sessions.pop(session.upload_id, None)
        if session.done is None:
            session.writer.abandon()

    def _forget(self) -> None:
        """Make room: what nobody asked for in a long time, and the first of those that are at their end."""
        long_ago = time.monotonic() - IDLE_SECONDS
        idle = [each for each in self._sessions.values() if each.used_at < long_ago and not each.lock.locked()]
        done = [each for each in self._sessions.values() if each.done is not None]
        for session in {*idle, *done[: max(0, len(done) - MOST)]}:
            del self._sessions[session.upload_id]
            if session.done is None:
                session.writer.abandon()
