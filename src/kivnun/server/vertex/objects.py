"""Objects of a bucket: what a client may say of one, how its bytes become it, and how it is told."""

import mimetypes
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivnun.server.errors import ApiError
from kivnun.server.vertex.bucket import keep_object, require_name
from kivnun.server.vertex.checksums import require_equal
from kivnun.server.vertex.related import Upload

HEAD_FIELDS = ("name", "contentType", "md5Hash", "crc32c", "metadata", "bucket")


def read_name(head: Mapping[str, Any], name: str) -> str:
    """The object's name, from what the client says of it or from the address; what is said must be understood.

    Args:
        head: What it says.
        name: Of the address; "" where it has none.

    Raises:
        ApiError: 400.
    """
    unknown = next((field for field in head if field not in HEAD_FIELDS), None)
    if unknown is not None:
        message = f"Unrecognized request argument supplied: {unknown[:100]}"
        raise ApiError(400, message, param=unknown[:100], code="unknown_parameter")
    found = name or head.get("name")
    if not isinstance(found, str) or not found:
        raise ApiError(400, "Missing required parameter: 'name'.", param="name", code="missing_required_parameter")
    require_name(found)
    return found


def keep_upload(root: Path, name: str, upload: Upload) -> dict[str, Any]:
    """Make an object of what was received, and describe it.

    Args:
        root: Folder of the bucket.
        name: Of the object.
        upload: Its bytes; the temporary file is gone in any case.

    Raises:
        ApiError: 400 for other bytes than the client says, or a name that no file can have.
    """
    try:
        require_equal(upload.head, upload.checksums)
        path = keep_object(root, name, upload.file.path)
    finally:
        upload.file.discard()
    return {**describe(root, name, path), **upload.checksums.to_json()}


def describe(root: Path, name: str, path: Path) -> dict[str, Any]:
    """What a client is told of an object.

    Args:
        root: Folder of the bucket.
        name: Of the object.
        path: Its file.
    """
    facts = path.stat()
    made = say_time(facts.st_mtime)
    return {
        "kind": "storage#object",
        "id": f"{root.name}/{name}/{facts.st_mtime_ns}",
        "name": name,
        "bucket": root.name,
        "generation": str(facts.st_mtime_ns),
        "metageneration": "1",
        "size": str(facts.st_size),
        "contentType": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": made,
        "updated": made,
    }


def say_time(at: float) -> str:
    """A time as Google tells it.

    Args:
        at: Seconds since 1970.
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
