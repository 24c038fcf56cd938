"""Checksums of Cloud Storage: what a client says its bytes come to is compared with those that came.

Reference: cloud.google.com/storage/docs/data-validation; CRC32C is RFC 4960, appendix B.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from kivnun.server.errors import ApiError

CHUNK_BYTES = 1 << 20
# By the words of the header `x-goog-hash`.
FIELDS = {"crc32c": "crc32c", "md5": "md5Hash"}


@dataclass(frozen=True)
class Checksums:
    """What the bytes of an object come to.

    Attributes:
        md5: In base64.
        crc32c: The four bytes, the highest first, in base64.
    """

    md5: str
    crc32c: str

    def to_json(self) -> dict[str, str]:
        """As an object tells them."""
        return {"md5Hash": self.md5, "crc32c": self.crc32c}


def sum_file(path: Path) -> Checksums:
    """The checksums of a file's bytes.

    Args:
        path: Of the file.
    """
    md5, crc32c = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            md5.update(chunk)
            crc32c.update(chunk)
    return Checksums(base64.b64encode(md5.digest()).decode(), base64.b64encode(crc32c.digest()).decode())


def read_goog_hash(header: str) -> dict[str, str]:
    """The checksums of a header such as `crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==`, by the fields of an object.

    Args:
        header: `x-goog-hash`; empty where the client sent none.

    Raises:
        ApiError: 400 for one that cannot be read.
    """
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in header.split(","))):
        name, _, value = part.partition("=")
        if name not in FIELDS or not _is_base64(value):
            raise ApiError(400, f"The header x-goog-hash cannot be read: {header[:100]!r}.", param="x-goog-hash")
        found[FIELDS[name]] = value
    return found


def require_equal(told: Mapping[str, Any], found: Checksums) -> None:
    """Compare what a client says with what came.

    Args:
        told: What it says of its object; checksums may be among it.
        found: Of the bytes that came.

    Raises:
        ApiError: 400 where they differ.
    """
    for name, value in found.to_json().items():
        if name in told and told[name] != value:
            message = f"The bytes that came have the {name} {value}, and not the one that was sent."
            raise ApiError(400, message, param=name)


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except binascii.Error:
        return False
