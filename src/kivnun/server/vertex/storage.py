"""Cloud Storage's addresses over the bucket folder: what google-cloud-storage sends with STORAGE_EMULATOR_HOST set.

Enough to bring rows to a tuning job and to look at them: a bucket is a folder that whoever runs the server makes, and
an object is a file in it. Nothing is deleted here, for the folder belongs to all projects.

Reference: cloud.google.com/storage/docs/json_api/v1.
"""

import base64
import mimetypes
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError
from kivnun.server.service import Service
from kivnun.server.vertex.bucket import (
    CHUNK_BYTES,
    find_bucket,
    find_object,
    keep_object,
    list_objects,
    require_name,
)
from kivnun.server.vertex.errors import GoogleRoute
from kivnun.server.vertex.related import Upload, receive_media, receive_related

router = APIRouter(tags=["storage"], route_class=GoogleRoute)
Reader = Annotated[Caller, Depends(require("files:read"))]
Writer = Annotated[Caller, Depends(require("files"))]
TheService = Annotated[Service, Depends(get_service)]
MAX_PAGE = 1000
HEAD_FIELDS = ("name", "contentType", "md5Hash", "crc32c", "metadata", "bucket")
OCTETS = {"schema": {"type": "string", "format": "binary"}}
UPLOAD_BODY = {"requestBody": {"required": True, "content": {"multipart/related": OCTETS, "*/*": OCTETS}}}
RESUMABLE = (
    "Uploads in pieces (`uploadType=resumable`), which google-cloud-storage takes for files above 8 MiB, are not "
    "answered here. Copy the file into the bucket's folder on the machine that serves, or send it whole with "
    "`uploadType=media`: curl --data-binary @FILE '.../upload/storage/v1/b/BUCKET/o?uploadType=media&name=NAME'."
)
SHARED = (
    "The project has a storage quota, and the bucket folder belongs to all projects, so that no quota counts it. "
    "Let whoever runs this server copy the file into it, or send it with POST /v1/files."
)


def take_wordy_query(
    alt: Literal["json", "media"] = "json",
    prettyPrint: Literal["true", "false"] = "false",
    projection: Literal["full", "noAcl"] = "noAcl",
    fields: str = "",
) -> str:
    """What Google's libraries write at every address; it changes how a reply looks, and here only `alt` does.

    Args:
        alt: Whether the object's bytes are wanted, or what is known of it.
        prettyPrint: Of JSON.
        projection: Which fields.
        fields: Likewise.
    """
    return alt


Alt = Annotated[str, Depends(take_wordy_query)]


@router.post("/upload/storage/v1/b/{bucket}/o", openapi_extra=UPLOAD_BODY)
async def upload_object(
    bucket: str,
    request: Request,
    caller: Writer,
    service: TheService,
    alt: Alt,
    upload_type: Annotated[Literal["multipart", "media", "resumable"], Query(alias="uploadType")],
    name: str = "",
) -> dict[str, Any]:
    """Keep an object: its bytes alone, or behind what it is."""
    if upload_type == "resumable":
        raise ApiError(400, RESUMABLE, param="uploadType")
    if caller.quotas.max_storage_bytes is not None:
        raise ApiError(403, SHARED, type="insufficient_quota", code="storage_quota_exceeded")
    root = await run_in_threadpool(find_bucket, service.settings.bucket_dir, bucket)
    limit = service.settings.max_file_bytes

    def check(head: Mapping[str, Any]) -> Path:
        _read_name(head, name)
        return root

    if upload_type == "multipart":
        kind = request.headers.get("content-type", "")
        upload = await receive_related(request.stream(), kind, folder=check, limit=limit)
    else:
        head = {"name": name}
        upload = await receive_media(request.stream(), head, folder=check(head), limit=limit)
    told = await run_in_threadpool(_keep, root, _read_name(upload.head, name), upload)
    service.counters.uploaded(upload.file.num_bytes)
    note_subject(request, f"gs://{bucket}/{told['name']}")
    return told


def _read_name(head: Mapping[str, Any], name: str) -> str:
    """The object's name, from what the client says of it or from the address; what is said must be understood."""
    unknown = next((field for field in head if field not in HEAD_FIELDS), None)
    if unknown is not None:
        message = f"Unrecognized request argument supplied: {unknown[:100]}"
        raise ApiError(400, message, param=unknown[:100], code="unknown_parameter")
    found = name or head.get("name")
    if not isinstance(found, str) or not found:
        raise ApiError(400, "Missing required parameter: 'name'.", param="name", code="missing_required_parameter")
    require_name(found)
    return found


def _keep(root: Path, name: str, upload: Upload) -> dict[str, Any]:
    md5 = base64.b64encode(upload.md5).decode()
    try:
        if upload.head.get("md5Hash", md5) != md5:
            raise ApiError(400, f"The bytes that came have the md5Hash {md5}, and not the one that was sent.")
        path = keep_object(root, name, upload.file.path)
    finally:
        upload.file.discard()
    return {**_describe(root, name, path), "md5Hash": md5}


@router.get("/storage/v1/b/{bucket}")
def get_bucket(bucket: str, caller: Reader, service: TheService, alt: Alt) -> dict[str, Any]:
    """A bucket, if there is one."""
    root = find_bucket(service.settings.bucket_dir, bucket)
    made = _say_time(root.stat().st_mtime)
    return {"kind": "storage#bucket", "id": bucket, "name": bucket, "timeCreated": made, "updated": made}


@router.get("/storage/v1/b/{bucket}/o")
def list_bucket(
    bucket: str,
    caller: Reader,
    service: TheService,
    alt: Alt,
    prefix: str = "",
    max_results: Annotated[int, Query(alias="maxResults", ge=0)] = MAX_PAGE,
    page_token: Annotated[str, Query(alias="pageToken")] = "",
) -> dict[str, Any]:
    """The objects of a bucket by their names."""
    root = find_bucket(service.settings.bucket_dir, bucket)
    limit = min(max_results or MAX_PAGE, MAX_PAGE)
    names = [name for name in list_objects(root, prefix) if name > page_token]
    # Somebody on this machine may take one away meanwhile.
    items = [_describe(root, name, root / name) for name in names[:limit] if (root / name).is_file()]
    more = {"nextPageToken": names[limit - 1]} if len(names) > limit else {}
    return {"kind": "storage#objects", "items": items, **more}


@router.get("/storage/v1/b/{bucket}/o/{name:path}", response_model=None)
@router.get("/download/storage/v1/b/{bucket}/o/{name:path}", response_model=None)
def get_object(bucket: str, name: str, caller: Reader, service: TheService, alt: Alt) -> Response:
    """An object: what is known of it or, with `alt=media`, its bytes."""
    root = find_bucket(service.settings.bucket_dir, bucket)
    path = find_object(service.settings.bucket_dir, f"gs://{bucket}/{name}", "name")
    if alt == "json":
        return JSONResponse(_describe(root, name, path))
    stream = path.open("rb")
    size = path.stat().st_size
    headers = {"content-length": str(size), "content-disposition": "attachment"}
    return StreamingResponse(_read(stream, size), media_type="application/octet-stream", headers=headers)


def _read(stream: Any, size: int) -> Iterator[bytes]:
    """As many bytes as were promised: somebody on this machine may be writing more."""
    with stream:
        while size > 0 and (chunk := stream.read(min(CHUNK_BYTES, size))):
            size -= len(chunk)
            yield chunk


def _describe(root: Path, name: str, path: Path) -> dict[str, Any]:
    facts = path.stat()
    made = _say_time(facts.st_mtime)
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


def _say_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
