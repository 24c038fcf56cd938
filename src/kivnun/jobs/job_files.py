"""A job's own copies of the files that it learns from: a client may delete a file once its job exists."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from kivnun.data.files.closing import find_closing
from kivnun.data.files.encoding import TextSource
from kivnun.data.files.lines import LineBlock, cut_blocks
from kivnun.data.files.unpack import find_packing
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, sync_folder

COPY_NAMES = {"train": "training.jsonl", "validation": "validation.jsonl"}
"""What a job's own copies are called, by split; its client knows them by the ids of what was uploaded."""


@dataclass(frozen=True)
class MendedLine:
    """A line that was mended.

    Attributes:
        number: Which, from 1.
        added: What was written behind it.
    """

    number: int
    added: str


def place_file(source: Path, copy: Path) -> str | None:
    """Give a job a file under a name of its own; no bytes are copied where the disk can do without.

    Args:
        source: The file as it was uploaded, which nobody changes. It may be gone where the copy is there already.
        copy: The new name.

    Returns:
        Why the file cannot be used, or None.
    """
    if not source.is_file():
        return None if copy.is_file() else "The file does not exist any more"
    with source.open("rb") as file:
        packing = find_packing(file)
    if packing:
        return f"The file is packed ({packing}); upload plain JSON Lines"
    partial = _partial(copy)
    with disk_full_as_user_error(copy):
        try:
            try:
                os.link(source, partial)
            except OSError:
                # Another disk, or one that knows no links.
                shutil.copyfile(source, partial)
                _sync(partial)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(copy.parent)
    return None


def mend_lines(path: Path) -> list[MendedLine]:
    """Close what lines of a JSON Lines file leave open at their ends; the file is replaced where there are such lines.

    Args:
        path: A copy of the job's; the upload that it may share its bytes with stays as it is.

    Returns:
        The lines that were mended. Lines that are broken otherwise stay broken.
    """
    mended: list[MendedLine] = []
    partial = _partial(path)
    with disk_full_as_user_error(path):
        try:
            with partial.open("xb") as file:
                for block in cut_blocks(TextSource(path)):
                    if isinstance(block, LineBlock):
                        file.write(_mend_block(block, mended))
                file.flush()
                os.fsync(file.fileno())
            if mended:
                partial.replace(path)
                sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    return mended


def _mend_block(block: LineBlock, mended: list[MendedLine]) -> bytes:
    lines = block.data.split(b"\n")
    for place, line in enumerate(lines):
        added = find_closing(line)
        if added:
            lines[place] = line.rstrip() + added.encode()
            mended.append(MendedLine(block.first_line + place, added))
    return b"\n".join(lines)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
