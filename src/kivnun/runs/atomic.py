"""Writing that is whole or absent: temporary name, fsync, rename, fsync of the folder."""

import errno
import hashlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kivnun.errors import UserError

PARTIAL_SUFFIX = ".partial"
_CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises:
        UserError: `disk-full`; the old file stays and nothing half-written is left.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with disk_full_as_user_error(path):
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal; memory stays bounded."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to the disk; without it a rename may be lost in a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_as_user_error(path: Path) -> Generator[None]:
    """Turn a full disk, however a library reports it, into an error that says what to do.

    Raises:
        UserError: `disk-full`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_disk_full(error):
            raise
        hint = "free some space and give the same command again; finished stages are not repeated"
        raise UserError("disk-full", f"the disk is full: cannot write {path}", hint=hint) from error


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is a full disk; safetensors and torch keep only the text."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if any(os.strerror(number) in str(cause) for number in _FULL):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
