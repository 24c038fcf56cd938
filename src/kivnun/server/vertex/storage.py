"""Cloud Storage's addresses over the bucket folder: what google-cloud-storage sends with STORAGE_EMULATOR_HOST set.

Enough to bring rows to a tuning job and to look at them: a bucket is a folder that whoever runs the server makes, and
an object is a file in it. Nothing is deleted here, for the folder belongs to all projects.

Reference: cloud.google.com/storage/docs/json_api/v1.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError
from kivnun.server.service import Service
from kivnun.server.vertex.bucket import CHUNK_BYTES, find_bucket, find_object, list_objects
from kivnun.server.vertex.checksums import read_goog_hash
from kivnun.server.vertex.errors import GoogleRoute
from kivnun.server.vertex.objects import describe, keep_upload, read_name, say_time
from kivnun.server.vertex.pieces import begin_upload, take_piece
from kivnun.server.vertex.related import receive_media, receive_related
from kivnun.server.vertex.resumable import ResumableUploads, Session

router = APIRouter(tags=["storage"], route_class=GoogleRoute)
Reader = Annotated[Caller, Depends(require("files:read"))]
Writer = Annotated[Caller, Depends(require("files"))]
TheService = Annotated[Service, Depends(get_service)]
MAX_PAGE = 1000
# As Cloud Storage has it, for an upload that its client gave up.
CANCELLED = 499
_WANTED = re.compile(r"bytes=(\d{1,18})-(\d{0,18})", re.ASCII)
OCTETS = {"schema": {"type": "string", "format": "binary"}}
PIECE_BODY = {"requestBody": {"required": False, "content": {"*/*": OCTETS}}}
UPLOAD_BODY = {"requestBody": {"required": True, "content": {"multipart/related": OCTETS, "*/*": OCTETS}}}
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


@router.post("/upload/storage/v1/b/{bucket}/o", openapi_extra=UPLOAD_BODY, response_model=None)
async def upload_object(
    bucket: str,
    request: Request,
    caller: Writer,
    service: TheService,
    alt: Alt,
    upload_type: Annotated[Literal["multipart", "media", "resumable"], Query(alias="uploadType")],
    name: str = "",
) -> dict[str, Any] | Response:
    """Keep an object: its bytes alone, or behind what it is; or begin to take it in pieces."""
    if caller.quotas.max_storage_bytes is not None:
        raise ApiError(403, SHARED, type="insufficient_quota", code="storage_quota_exceeded")
    root = await run_in_threadpool(find_bucket, service.settings.bucket_dir, bucket)
    if upload_type == "resumable":
        return await begin_upload(request, caller, root, name)
    limit = service.settings.max_file_bytes

    def check(head: Mapping[str, Any]) -> Path:
        read_name(head, name)
        return root

    if upload_type == "multipart":
        kind = request.headers.get("content-type", "")
        upload = await receive_related(request.stream(), kind, folder=check, limit=limit)
    else:
        head = {"name": name, **read_goog_hash(request.headers.get("x-goog-hash", ""))}
        upload = await receive_media(request.stream(), head, folder=check(head), limit=limit)
    told = await run_in_threadpool(keep_upload, root, read_name(upload.head, name), upload)
    service.counters.uploaded(upload.file.num_bytes)
    note_subject(request, f"gs://{bucket}/{told['name']}")
    return told


def find_session(
    bucket: str,
    request: Request,
    caller: Writer,
    service: TheService,
    alt: Alt,
    upload_id: Annotated[str, Query(max_length=64)],
    uploadType: Literal["resumable"] = "resumable",
) -> Session:
    """The upload in pieces that an address names.

    Args:
        bucket: Where its object goes.
        request: As it came.
        caller: Whose upload it must be.
        service: Of the server.
        alt: How the reply looks.
        upload_id: Of the upload.
        uploadType: As every address of an upload has it.

    Raises:
        ApiError: 400 where the server has no buckets, 404 for a bucket or an upload that is not there.
    """
    uploads: ResumableUploads = request.app.state.resumable_uploads
    return uploads.find(caller.project_id, find_bucket(service.settings.bucket_dir, bucket), upload_id)


TheSession = Annotated[Session, Depends(find_session)]


@router.put("/upload/storage/v1/b/{bucket}/o", openapi_extra=PIECE_BODY, response_model=None)
async def upload_piece(request: Request, session: TheSession) -> Response:
    """Take the next bytes of an object, or tell how many have come."""
    return await take_piece(request, session)


@router.delete("/upload/storage/v1/b/{bucket}/o", status_code=CANCELLED, response_model=None)
def cancel_upload(request: Request, session: TheSession) -> Response:
    """Give up an object on its way; what came of it is gone."""
    uploads: ResumableUploads = request.app.state.resumable_uploads
    uploads.drop(session)
    return Response(status_code=CANCELLED)


@router.get("/storage/v1/b/{bucket}")
def get_bucket(bucket: str, caller: Reader, service: TheService, alt: Alt) -> dict[str, Any]:
    """A bucket, if there is one."""
    root = find_bucket(service.settings.bucket_dir, bucket)
    made = say_time(root.stat().st_mtime)
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
    items = [describe(root, name, root / name) for name in names[:limit] if (root / name).is_file()]
    more = {"nextPageToken": names[limit - 1]} if len(names) > limit else {}
    return {"kind": "storage#objects", "items": items, **more}


@router.get("/storage/v1/b/{bucket}/o/{name:path}", response_model=None)
@router.get("/download/storage/v1/b/{bucket}/o/{name:path}", response_model=None)
def get_object(
    bucket: str,
    name: str,
    request: Request,
    caller: Reader,
    service: TheService,
    alt: Alt,
    generation: str | None = None,
) -> Response:
    """An object: what is known of it or, with `alt=media`, its bytes, or those of a `Range`."""
    root = find_bucket(service.settings.bucket_dir, bucket)
    path = find_object(service.settings.bucket_dir, f"gs://{bucket}/{name}", "name")
    told = describe(root, name, path)
    if generation not in (None, told["generation"]):
        message = f"The object {name[:200]!r} is another one now: generation {told['generation']}."
        raise ApiError(404, message, param="generation")
    if alt == "json":
        return JSONResponse(told)
    known = {"x-goog-generation": told["generation"], "x-goog-metageneration": told["metageneration"]}
    return _send(path, request.headers.get("range", ""), known)


def _send(path: Path, wanted: str, known: Mapping[str, str]) -> Response:
    stream = path.open("rb")
    size = os.fstat(stream.fileno()).st_size
    match = _WANTED.fullmatch(wanted)
    first = int(match[1]) if match else 0
    last = min(int(match[2] or size), size - 1) if match else size - 1
    headers = {"content-length": str(last + 1 - first), "content-disposition": "attachment", **known}
    status = 200
    if match:
        if first > last:
            stream.close()
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        headers["content-range"], status = f"bytes {first}-{last}/{size}", 206
    pieces = _read(stream, first, last + 1 - first)
    return StreamingResponse(pieces, status, headers, media_type="application/octet-stream")


def _read(stream: BinaryIO, first: int, size: int) -> Iterator[bytes]:
    """As many bytes as were promised: somebody on this machine may be writing more."""
    with stream:
        stream.seek(first)
        while size > 0 and (chunk := stream.read(min(CHUNK_BYTES, size))):
            size -= len(chunk)
            yield chunk
