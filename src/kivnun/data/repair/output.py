"""What a repair writes: the new file and its log, both whole or neither."""

import bz2
import gzip
import lzma
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, cast

import orjson

from kivnun.data.files.names import LAYOUT_OF_SUFFIX, find_suffix
from kivnun.data.repair.source import Source
from kivnun.errors import UserError
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, sync_file, sync_folder

LOG_SUFFIX = ".log.jsonl"


def log_path(out: Path) -> Path:
    """Where the log of a repair stands: beside the new file."""
    return out.with_name(out.name + LOG_SUFFIX)


def check_target(source: Source, out: Path, *, force: bool) -> None:
    """Refuse a target that would overwrite something, or that is named like another layout.

    Raises:
        UserError: `file-exists`, `file-unwritable` or `data-format`.
    """
    path = source.file.path
    if out.is_dir():
        raise UserError("file-unwritable", f"{out} is a folder", hint="name a file, with its ending")
    if not out.parent.is_dir():
        raise UserError("file-unwritable", f"there is no folder {out.parent}", hint="make it, or name another file")
    for target in (out, log_path(out)):
        if target.exists() and target.samefile(path):
            hint = "name another file: with the old one and the log the repair can be undone"
            raise UserError("file-exists", f"{target} is the file that is repaired", hint=hint)
        if target.exists() and not force:
            hint = "name another file, or overwrite it with --force"
            raise UserError("file-exists", f"{target} exists", hint=hint)
    named = find_suffix(out)
    if named != find_suffix(path) and LAYOUT_OF_SUFFIX.get(named) != source.file.layout:
        raise UserError(
            "data-format",
            f"{out} is named like another layout than {path} ({source.file.layout})",
            hint=f"let it end in .{find_suffix(path)}; `kivnun convert` changes the layout",
        )


@contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, packed as its name says; it appears whole when the block ends, and not at all if it fails.

    Raises:
        UserError: `disk-full` or `file-unwritable`.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    pack = _PACKERS.get(path.suffix.lower(), nullcontext)
    try:
        with disk_full_as_user_error(path), partial.open("xb") as plain, pack(plain) as file:
            yield file
        sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = (error.strerror or str(error)).lower()
        hint = "name a file in a folder that you may write to"
        raise UserError("file-unwritable", f"cannot write {path}: {reason}", hint=hint) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def open_log(path: Path) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """A log to add entries to; it appears whole when the block ends, and not at all if it fails.

    Raises:
        UserError: `disk-full` or `file-unwritable`.
    """
    with open_whole(path) as file:
        yield lambda entry: _write_entry(file, entry)


@contextmanager
def both_or_neither(out: Path) -> Iterator[ExitStack]:
    """A stack for the new file and, entered after it, its log: if the new file fails, the log that is there goes again.

    Raises:
        UserError: What writing raises.
    """
    old = log_path(out).stat().st_ino if log_path(out).exists() else None
    try:
        with ExitStack() as stack:
            yield stack
    except BaseException:
        log = log_path(out)
        if log.exists() and log.stat().st_ino != old:
            log.unlink()
        raise


def _write_entry(file: IO[bytes], entry: Mapping[str, object]) -> None:
    file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def _pack_gzip(file: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    # Without name and time in its head, the same rows give the same bytes.
    return cast("IO[bytes]", gzip.GzipFile("", "wb", fileobj=file, mtime=0))


def _pack_xz(file: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return lzma.LZMAFile(file, "wb")


def _pack_bzip2(file: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return bz2.BZ2File(file, "wb")


def _pack_zstd(file: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    import zstandard  # noqa: PLC0415 - most files are not packed with it

    return cast("IO[bytes]", zstandard.ZstdCompressor().stream_writer(file, closefd=False))


_PACKERS: dict[str, Callable[[IO[bytes]], AbstractContextManager[IO[bytes]]]] = {
    ".gz": _pack_gzip,
    ".xz": _pack_xz,
    ".bz2": _pack_bzip2,
    ".zst": _pack_zstd,
}
