"""Files that come in parts, side by side and in any order, and become one file or nothing.

Reference: https://platform.openai.com/docs/api-reference/uploads
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from kivnun.database.identifiers import new_id
from kivnun.database.tables import File, Upload, UploadPart
from kivnun.runs.atomic import sync_folder
from kivnun.server.audit_requests import note_subject
from kivnun.server.bodies import RequestBody
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError, invalid, not_found
from kivnun.server.field_names import say_unknown
from kivnun.server.files.joining import join_parts
from kivnun.server.files.multipart import ReceivedFile, describe_form, receive_form
from kivnun.server.files.routes import (
    MAX_EXPIRY_SECONDS,
    MIN_EXPIRY_SECONDS,
    file_object,
    make_file,
    require_filename,
)
from kivnun.server.folders import PREFIXES, DataFolder
from kivnun.server.idempotency import Creation, read_key
from kivnun.server.limits import require_storage
from kivnun.server.service import Service
from kivnun.server.sweep import EXPIRED, PENDING, forget_parts

router = APIRouter(tags=["uploads"])
COMPLETED, CANCELLED = "completed", "cancelled"
OPEN_SECONDS = 3600
MAX_PARTS = 10_000
# A part whose reply was lost comes again, so that more may lie here than the file will have.
SPARE_BYTES = 128 << 20

Writer = Annotated[Caller, Depends(require("files"))]
TheService = Annotated[Service, Depends(get_service)]


class ExpiresAfter(RequestBody):
    """When the file shall go."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)


class CreateUpload(RequestBody):
    """The file that will come."""

    filename: str
    purpose: Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
    bytes: int = Field(ge=1)
    mime_type: str = Field(max_length=256)
    expires_after: ExpiresAfter | None = None


class CompleteUpload(RequestBody):
    """The parts in their order."""

    part_ids: list[str] = Field(max_length=MAX_PARTS)
    md5: str | None = None


def upload_object(upload: Upload, file: File | None = None) -> dict[str, Any]:
    """An upload as clients see it.

    Args:
        upload: Its row.
        file: What it became.
    """
    told: dict[str, Any] = {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.num_bytes,
        "created_at": upload.created_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": _status(upload),
        "expires_at": upload.expires_at,
    }
    return told if file is None else told | {"file": file_object(file)}


def _status(upload: Upload) -> str:
    """As it is now, whether or not the sweep has come by."""
    late = upload.status == PENDING and upload.expires_at <= time.time()
    return EXPIRED if late else upload.status


@router.post("/uploads")
def create_upload(body: CreateUpload, request: Request, caller: Writer, service: TheService) -> dict[str, Any]:
    """Begin an upload; an hour later it expires."""
    require_filename(body.filename)
    limit = service.settings.max_file_bytes
    if body.bytes > limit:
        raise invalid("bytes", f"Invalid 'bytes': a file may have at most {limit} bytes, but got {body.bytes} instead.")
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    creation = Creation(caller.project_id, read_key(request), "upload", fingerprint)
    now = int(time.time())
    upload = Upload(
        id=new_id(PREFIXES["uploads"]),
        project_id=caller.project_id,
        filename=body.filename,
        purpose=body.purpose,
        mime_type=body.mime_type,
        num_bytes=body.bytes,
        status=PENDING,
        file_id=None,
        file_expires_after=None if body.expires_after is None else body.expires_after.seconds,
        created_at=now,
        expires_at=now + OPEN_SECONDS,
    )
    with service.database.writing() as session:
        earlier = creation.find(session)
        if earlier is not None:
            return upload_object(_find(session, caller, earlier))
        require_storage(session, caller, body.bytes)
        session.add(upload)
        creation.keep(session, upload.id)
        DataFolder(service.settings.data_dir).upload(upload.id).mkdir(mode=0o700)
    note_subject(request, upload.id)
    return upload_object(upload)


@router.post("/uploads/{upload_id}/parts", openapi_extra=describe_form("data"))
async def create_part(upload_id: str, request: Request, caller: Writer, service: TheService) -> dict[str, Any]:
    """Keep one part: multipart, with `data`."""
    upload = await run_in_threadpool(_find_pending, service, caller, upload_id)
    try:
        form = await receive_form(
            request.stream(),
            request.headers.get("content-type", ""),
            file_field="data",
            folder=DataFolder(service.settings.data_dir).upload(upload.id),
            limit=upload.num_bytes,
            refuse=_too_many_bytes,
        )
    except FileNotFoundError:
        # The upload ended before the body came, and its folder went.
        await run_in_threadpool(_find_pending, service, caller, upload_id)
        raise
    try:
        for name in form.fields:
            raise invalid(name[:100], say_unknown(name[:100], name[:100], ()), code="unknown_parameter")
        part = await run_in_threadpool(_keep_part, service, caller, upload_id, form.file)
    finally:
        form.file.discard()
    note_subject(request, part.id)
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": upload_id}


def _too_many_bytes(announced: int) -> ApiError:
    message = f"This part has more bytes than the {announced} that were announced for the whole upload."
    return ApiError(413, message, param="data", code="too_large")


def _keep_part(service: Service, caller: Caller, upload_id: str, received: ReceivedFile) -> UploadPart:
    part = UploadPart(
        id=new_id(PREFIXES["parts"]), upload_id=upload_id, num_bytes=received.num_bytes, created_at=int(time.time())
    )
    path = DataFolder(service.settings.data_dir).part(upload_id, part.id)
    with service.database.writing() as session:
        upload = _require_pending(_find(session, caller, upload_id, lock=True))
        kept = select(func.coalesce(func.sum(UploadPart.num_bytes), 0)).where(UploadPart.upload_id == upload_id)
        if session.scalars(kept).one() + part.num_bytes > 2 * upload.num_bytes + SPARE_BYTES:
            message = f"The parts of this upload have more bytes than the {upload.num_bytes} that were announced."
            raise invalid("data", message)
        require_storage(session, caller, part.num_bytes)
        received.path.rename(path)
        sync_folder(path.parent)
        session.add(part)
    return part


@router.post("/uploads/{upload_id}/complete")
def complete_upload(
    upload_id: str, body: CompleteUpload, request: Request, caller: Writer, service: TheService
) -> dict[str, Any]:
    """Make the file of the parts, in the order that is given."""
    folder = DataFolder(service.settings.data_dir)
    with service.database.reading() as session:
        upload = _find(session, caller, upload_id)
        if upload.status == COMPLETED:
            # Whoever asks again did not hear the answer.
            return _completed(session, caller, upload)
        _require_pending(upload)
        paths = _order_parts(session, folder, upload, body.part_ids)
    try:
        received = join_parts(paths, folder.files, upload.filename)
    except FileNotFoundError:
        # Another request ended the upload meanwhile, and took the parts away.
        with service.database.reading() as session:
            return _completed(session, caller, _require(_find(session, caller, upload_id), COMPLETED))
    try:
        if body.md5 is not None and body.md5.lower() != received.md5:
            raise invalid("md5", f"The parts have the MD5 {received.md5}, and not {body.md5[:64]}.")
        told = _finish(service, caller, upload, received.file)
    finally:
        received.file.discard()
    shutil.rmtree(folder.upload(upload_id), ignore_errors=True)
    note_subject(request, upload_id, told["file"]["id"])
    return told


def _order_parts(session: Session, folder: DataFolder, upload: Upload, part_ids: Sequence[str]) -> list[Path]:
    parts = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))}
    seen: set[str] = set()
    for place, part_id in enumerate(part_ids):
        if part_id not in parts or part_id in seen:
            problem = "is given twice" if part_id in parts else "is no part of this upload"
            raise invalid(f"part_ids[{place}]", f"Invalid 'part_ids[{place}]': {part_id[:100]} {problem}.")
        seen.add(part_id)
    num_bytes = sum(parts[part_id].num_bytes for part_id in part_ids)
    if num_bytes != upload.num_bytes:
        message = f"The parts have {num_bytes} bytes together, and {upload.num_bytes} were announced."
        raise invalid("part_ids", message)
    return [folder.part(upload.id, part_id) for part_id in part_ids]


def _finish(service: Service, caller: Caller, upload: Upload, received: ReceivedFile) -> dict[str, Any]:
    """The file, its row, and the end of the upload, in one transaction; of two that complete at once one does it."""
    file = make_file(caller, upload.filename, upload.purpose, received, upload.file_expires_after)
    path = DataFolder(service.settings.data_dir).file(file.id)
    with service.database.writing() as session:
        mine = update(Upload).where(Upload.id == upload.id, Upload.status == PENDING)
        done = session.execute(mine.values(status=COMPLETED, file_id=file.id))
        current = _find(session, caller, upload.id)
        if not done.rowcount:  # pyright: ignore[reportAttributeAccessIssue] - of every UPDATE
            return _completed(session, caller, _require(current, COMPLETED))
        forget_parts(session, upload.id)
        require_storage(session, caller, file.num_bytes)
        received.path.rename(path)
        try:
            sync_folder(path.parent)
            session.add(file)
            session.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    service.counters.uploaded(file.num_bytes)
    return upload_object(current, file)


def _completed(session: Session, caller: Caller, upload: Upload) -> dict[str, Any]:
    file = session.scalar(select(File).where(File.id == upload.file_id, File.project_id == caller.project_id))
    return upload_object(upload, file)


@router.post("/uploads/{upload_id}/cancel")
def cancel_upload(upload_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """End an upload; its parts are removed."""
    with service.database.writing() as session:
        upload = _find(session, caller, upload_id, lock=True)
        if upload.status != CANCELLED:
            _require_pending(upload).status = CANCELLED
            forget_parts(session, upload_id)
    shutil.rmtree(DataFolder(service.settings.data_dir).upload(upload_id), ignore_errors=True)
    return upload_object(upload)


def _find(session: Session, caller: Caller, upload_id: str, *, lock: bool = False) -> Upload:
    query = select(Upload).where(Upload.id == upload_id, Upload.project_id == caller.project_id)
    # On PostgreSQL another transaction could end the upload between being read here and being written.
    query = query.with_for_update() if lock else query
    upload = session.scalar(query.execution_options(populate_existing=True))
    if upload is None:
        raise not_found("Upload object", upload_id)
    return upload


def _find_pending(service: Service, caller: Caller, upload_id: str) -> Upload:
    with service.database.reading() as session:
        return _require_pending(_find(session, caller, upload_id))


def _require_pending(upload: Upload) -> Upload:
    return _require(upload, PENDING)


def _require(upload: Upload, status: str) -> Upload:
    if _status(upload) != status:
        message = f"The upload {upload.id} is {_status(upload)}, and not {status}."
        raise ApiError(400, message, param="upload_id", code="invalid_upload_status")
    return upload
