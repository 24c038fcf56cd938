"""The local bucket folder: what `gs://NAME/PATH` means on this machine, and nothing outside of it.

This is the one place where a client's words become a path. They are taken apart first, each part is checked, and what
is found must lie in the folder of its bucket after every link was followed.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error
from kivnun.server.errors import ApiError
from kivnun.server.files.multipart import ReceivedFile

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.ASCII)
_PART = re.compile(r"[^\0-\x1f\\/]{1,255}")
CHUNK_BYTES = 1 << 20


def find_object(bucket_dir: Path | None, uri: str, param: str) -> Path:
    """The file that an address names.

    Args:
        bucket_dir: Holds a folder for each bucket; None where the server has none.
        uri: `gs://NAME/PATH`.
        param: The field that holds it, for messages.

    Raises:
        ApiError: 400 for an address that is none or leads out of its bucket, 404 where nothing lies there.
    """
    if bucket_dir is None:
        message = "This server has no bucket folder: start it with `kivnun serve --bucket-dir FOLDER`."
        raise ApiError(400, message, param=param)
    scheme, _, rest = uri.partition("://")
    bucket, *parts = rest.split("/")
    is_name = scheme == "gs" and _BUCKET.fullmatch(bucket) is not None and bool(parts)
    if not is_name or any(part in (".", "..") or _PART.fullmatch(part) is None for part in parts):
        raise ApiError(400, f"{param}: {uri[:200]!r} is no address of the form gs://BUCKET/FILE.", param=param)
    try:
        root = (bucket_dir / bucket).resolve(strict=True)
        path = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _nothing_there(uri, param) from error
    # A link that leads out of the bucket is as good as nothing: who sends addresses must not learn what lies elsewhere.
    if root.parent != bucket_dir.resolve() or root not in path.parents or not path.is_file():
        raise _nothing_there(uri, param)
    return path


def _nothing_there(uri: str, param: str) -> ApiError:
    return ApiError(404, f"{param}: there is no file {uri[:200]!r} in the bucket folder.", param=param)


def copy_object(path: Path, folder: Path, limit: int, param: str) -> ReceivedFile:
    """A copy under a temporary name, synced; what the bucket holds may change while a job waits.

    Args:
        path: From `find_object`.
        folder: Where the copy goes.
        limit: Most bytes of it.
        param: The field that named it, for messages.

    Raises:
        ApiError: 400 for a file that is too large.
    """
    partial = folder / f".{secrets.token_hex(16)}{PARTIAL_SUFFIX}"
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with disk_full_as_user_error(partial), path.open("rb") as source, partial.open("xb") as copy:
            while num_bytes <= limit and (chunk := source.read(CHUNK_BYTES)):
                num_bytes += len(chunk)
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if num_bytes > limit:
        partial.unlink()
        raise ApiError(400, f"{param}: the file has more than {limit} bytes.", param=param)
    return ReceivedFile(partial, path.name, num_bytes, digest.hexdigest())
