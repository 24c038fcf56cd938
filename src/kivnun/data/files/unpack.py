"""Files as a stream of unpacked bytes: gzip, bzip2, xz and zstd are known by their first bytes, whatever their name."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
# A kilobyte of zstd can unpack to 32 MiB, so that little is fed at a time.
_ZSTD_INPUT_BYTES = 1 << 10
_PIECE_BYTES = 1 << 18
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


class UnreadableError(Exception):
    """A file that cannot be opened or unpacked; the text says why."""


def stream_bytes(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The unpacked content of a file, in pieces.

    Raises:
        UnreadableError: If the file cannot be opened, or is damaged or cut off; what came before was good.
    """
    try:
        with path.open("rb") as file:
            kind = find_packing(file)
            yield from _gather(_UNPACKERS[kind](file, min(chunk_bytes, _PIECE_BYTES)), chunk_bytes)
    except OSError as error:
        # gzip and bz2 report damage as an OSError without a number.
        problem = f"cannot be read: {error.strerror}" if error.strerror else f"cannot be unpacked: {error}"
        raise UnreadableError(problem) from error
    except _DAMAGE as error:
        raise UnreadableError(f"cannot be unpacked: {error}") from error


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of the unpacked content.

    Raises:
        UnreadableError: If not even these can be read.
    """
    return next(stream_bytes(path, size), b"")[:size]


def find_packing(file: BinaryIO) -> str:
    """How an open file is packed: gz, bz2, xz, zst, zip, or "" for not at all; the file stands at its start again."""
    start = file.read(6)
    file.seek(0)
    for name, magic in _MAGIC.items():
        if start.startswith(magic):
            return name
    return ""


def _gather(pieces: Iterator[bytes], chunk_bytes: int) -> Iterator[bytes]:
    """Pieces put together; those before an error are given out before it is raised."""
    parts: list[bytes] = []
    size = 0
    failure: Exception | None = None
    while True:
        try:
            piece = next(pieces, b"")
        except (*_DAMAGE, UnreadableError) as error:
            piece, failure = b"", error
        parts.append(piece)
        size += len(piece)
        if size >= chunk_bytes or (not piece and size):
            yield b"".join(parts)
            parts, size = [], 0
        if failure is not None:
            raise failure
        if not piece:
            return


def _read_plain(file: BinaryIO, size: int) -> Iterator[bytes]:
    while piece := file.read(size):
        yield piece


def _read_gzip(file: BinaryIO, size: int) -> Iterator[bytes]:
    # read1 stops at damage only when it comes to it; read would throw away what it has by then.
    with gzip.GzipFile(fileobj=file) as unpacked:
        while piece := unpacked.read1(size):
            yield piece


def _read_bzip2(file: BinaryIO, size: int) -> Iterator[bytes]:
    with bz2.BZ2File(file) as unpacked:
        while piece := unpacked.read1(size):
            yield piece


def _read_xz(file: BinaryIO, size: int) -> Iterator[bytes]:
    with lzma.LZMAFile(file) as unpacked:
        while piece := unpacked.read1(size):
            yield piece


def _read_zstd(file: BinaryIO, _: int) -> Iterator[bytes]:
    """Frame by frame: the library's own reader takes a file that was cut off for a whole one."""
    import zstandard  # noqa: PLC0415 - most files are not packed with it

    unpacker = zstandard.ZstdDecompressor().decompressobj()
    try:
        while packed := file.read(_ZSTD_INPUT_BYTES):
            while packed:
                if unpacker.eof:
                    unpacker = zstandard.ZstdDecompressor().decompressobj()
                # Nothing may come out for a while, which is no end.
                if piece := unpacker.decompress(packed):
                    yield piece
                packed = unpacker.unused_data if unpacker.eof else b""
    except zstandard.ZstdError as error:
        raise UnreadableError(f"cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise UnreadableError("cannot be unpacked: the file ends in the middle of a zstd frame")


def _refuse_zip(file: BinaryIO, size: int) -> Iterator[bytes]:
    raise UnreadableError("is a zip archive (or an Office file): unpack it first")
    yield file.read(size)


_MAGIC = {
    "gz": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zst": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
}
_UNPACKERS: dict[str, Callable[[BinaryIO, int], Iterator[bytes]]] = {
    "": _read_plain,
    "gz": _read_gzip,
    "bz2": _read_bzip2,
    "xz": _read_xz,
    "zst": _read_zstd,
    "zip": _refuse_zip,
}
