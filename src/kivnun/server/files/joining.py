"""Several files written one after the other into a new one, which is hashed on the way; memory stays bounded."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error
from kivnun.server.files.multipart import ReceivedFile

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Joined:
    """A new file that nobody was told of yet.

    Attributes:
        file: The file.
        md5: Of its bytes, in hexadecimal.
    """

    file: ReceivedFile
    md5: str


def join_parts(parts: Sequence[Path], folder: Path, filename: str) -> Joined:
    """Write parts into one file.

    Args:
        parts: In their order.
        folder: Where the new file goes, under a temporary name.
        filename: What the client calls it.

    Raises:
        FileNotFoundError: Where a part was removed meanwhile.
    """
    path = folder / f".{secrets.token_hex(16)}{PARTIAL_SUFFIX}"
    # MD5 only compares what arrived with what was sent.
    sha256, md5, num_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        with disk_full_as_user_error(path), path.open("xb") as joined:
            for part in parts:
                with part.open("rb") as source:
                    while chunk := source.read(CHUNK_BYTES):
                        sha256.update(chunk)
                        md5.update(chunk)
                        num_bytes += len(chunk)
                        joined.write(chunk)
            joined.flush()
            os.fsync(joined.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Joined(ReceivedFile(path, filename, num_bytes, sha256.hexdigest()), md5.hexdigest())
