"""The local bucket folder: what `gs://NAME/PATH` means on this machine, and nothing outside of it.

This is the one place where a client's words become a path. They are taken apart first, each part is checked, and what
is found must lie in the folder of its bucket after every link was followed.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, sync_folder
from kivnun.server.errors import ApiError
from kivnun.server.files.multipart import ReceivedFile

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.ASCII)
_PART = re.compile(r"[^\0-\x1f\\/]{1,255}")
CHUNK_BYTES = 1 << 20
# As Cloud Storage has it; what a disk has for each part of a name.
MAX_NAME_BYTES, MAX_PART_BYTES = 1024, 255
NO_BUCKETS = "This server has no bucket folder: start it with `kivnun serve --bucket-dir FOLDER`."


def find_bucket(bucket_dir: Path | None, bucket: str) -> Path:
    """The folder of a bucket.

    Args:
        bucket_dir: Holds a folder for each bucket; None where the server has none.
        bucket: As the client names it.

    Raises:
        ApiError: 400 where the server has no buckets, 404 for a bucket that is not there.
    """
    if bucket_dir is None:
        raise ApiError(400, NO_BUCKETS, param="bucket")
    root = bucket_dir / bucket if _BUCKET.fullmatch(bucket) else None
    if root is None or not root.is_dir() or root.resolve().parent != bucket_dir.resolve():
        message = f"There is no bucket {bucket[:100]!r}: make a folder of this name in the folder of --bucket-dir."
        raise ApiError(404, message, param="bucket")
    return root.resolve()


def require_name(name: str) -> list[str]:
    """The parts of an object's name, each of which can be a file's.

    Args:
        name: As the client gives it, such as `deep/rows.jsonl`.

    Raises:
        ApiError: 400.
    """
    parts = name.split("/")
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    is_name = all(part not in (".", "..") and _PART.fullmatch(part) for part in parts)
    is_name = is_name and max(sizes) <= MAX_PART_BYTES and sum(sizes) + len(sizes) <= MAX_NAME_BYTES
    if not is_name or any(part.endswith(PARTIAL_SUFFIX) for part in parts):
        raise ApiError(400, f"{name[:200]!r} cannot be the name of a file in the bucket folder.", param="name")
    return parts


def keep_object(root: Path, name: str, partial: Path) -> Path:
    """Give a received file its name in a bucket, in place of what has it; no link is followed out of the bucket.

    Args:
        root: From `find_bucket`.
        name: Of the object.
        partial: Written and synced, in the same bucket.

    Raises:
        ApiError: 400 for a name that cannot be a file's, or is a folder's.
    """
    *folders, last = require_name(name)
    parent = root
    try:
        for folder in folders:
            parent = parent / folder
            # One after the other: a link may lead out, and nothing may be made behind it.
            if parent.is_symlink():
                raise ApiError(400, f"{name[:200]!r} leads through a link in the bucket folder.", param="name")
            parent.mkdir(exist_ok=True)
        path = parent / last
        with disk_full_as_user_error(path):
            partial.replace(path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        message = f"{name[:200]!r} cannot be kept: a part of its name is a file's, or the whole of it a folder's."
        raise ApiError(400, message, param="name") from error
    sync_folder(parent)
    return path


def list_objects(root: Path, prefix: str) -> list[str]:
    """The names of all objects of a bucket that begin in one way, in order; links are left out.

    Args:
        root: From `find_bucket`.
        prefix: What they begin with.
    """
    names: list[str] = []
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if name.startswith(prefix) and not file.endswith(PARTIAL_SUFFIX) and not path.is_symlink():
                names.append(name)
    return sorted(names)


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
        raise ApiError(400, NO_BUCKETS, param=param)
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
