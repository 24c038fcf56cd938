"""Files: streamed to the disk, known by an id that this server made, and gone when their time is over.

A file that a client was told of is on the disk under its last name, and its row is committed. Anything else is removed
when the server starts.
"""

import hashlib
import time
from collections.abc import Iterator
from io import BufferedReader
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from kivnun.database.identifiers import new_id
from kivnun.database.tables import File
from kivnun.runs.atomic import sync_folder
from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError, invalid, not_found
from kivnun.server.field_names import say_unknown
from kivnun.server.files.multipart import Form, ReceivedFile, describe_form, receive_form
from kivnun.server.files.use import find_use
from kivnun.server.folders import PREFIXES, DataFolder
from kivnun.server.idempotency import Creation, read_key
from kivnun.server.limits import no_room, require_storage
from kivnun.server.middleware import too_large
from kivnun.server.pages import Order, list_object, page
from kivnun.server.service import Service

router = APIRouter(tags=["files"])
PURPOSES = ("fine-tune", "batch", "assistants", "vision", "user_data", "evals")
MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 3600, 2_592_000
# As the hosted service does; other files stay until they are deleted.
EXPIRY_BY_PURPOSE = {"batch": MAX_EXPIRY_SECONDS}
MAX_FILENAME = 512
MAX_PAGE = 10_000
CHUNK_BYTES = 1 << 20
CONTENT_TYPES = {".jsonl": "application/jsonl", ".json": "application/json", ".csv": "text/csv"}
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

Reader = Annotated[Caller, Depends(require("files:read"))]
Writer = Annotated[Caller, Depends(require("files"))]
TheService = Annotated[Service, Depends(get_service)]


def file_object(file: File) -> dict[str, Any]:
    """A file as clients see it; what it has not is left out, for OpenAI's schema takes no null there.

    Args:
        file: Its row.
    """
    told: dict[str, Any] = {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
    }
    if file.expires_at is not None:
        told["expires_at"] = file.expires_at
    if file.status_details is not None:
        told["status_details"] = file.status_details
    return told


def find_file(session: Session, caller: Caller, file_id: str, *, lock: bool = False) -> File:
    """A file of the caller's project.

    Args:
        session: Open for reading.
        caller: Who asks.
        file_id: As the client names it.
        lock: Whether it stays as it is until the transaction ends: nobody deletes what something begins to need.

    Raises:
        ApiError: 404.
    """
    query = select(File).where(File.id == file_id, File.project_id == caller.project_id)
    file = session.scalar(query.with_for_update() if lock else query)
    if file is None or (file.expires_at is not None and file.expires_at <= time.time()):
        raise not_found("File object", file_id)
    return file


@router.post("/files", openapi_extra=describe_form("file", FIELDS))
async def create_file(request: Request, caller: Writer, service: TheService) -> dict[str, Any]:
    """Keep a file: multipart, with `purpose`, `file`, and `expires_after` if it shall go by itself."""
    key = read_key(request)
    quota = caller.quotas.max_storage_bytes
    limit = service.settings.max_file_bytes
    form = await receive_form(
        request.stream(),
        request.headers.get("content-type", ""),
        file_field="file",
        folder=DataFolder(service.settings.data_dir).files,
        limit=limit if quota is None else min(limit, quota),
        refuse=too_large if quota is None or limit <= quota else _too_large_for_project,
    )
    told = await run_in_threadpool(_create, service, caller, form, key)
    note_subject(request, told["id"])
    return told


def _too_large_for_project(quota: int) -> ApiError:
    """Told before all of it came: nothing that was deleted would make room for it."""
    told = f"The project may keep {quota} bytes, and this file alone has more."
    return no_room(f"{told} Let whoever runs this server raise the quota.")


def _create(service: Service, caller: Caller, form: Form, key: str | None) -> dict[str, Any]:
    try:
        purpose, expires_after = _read_fields(form)
        file = make_file(caller, form.file.filename or "upload", purpose, form.file, expires_after)
        asked = f"{purpose}\0{expires_after}\0{file.filename}\0{file.sha256}".encode()
        creation = Creation(caller.project_id, key, "file", hashlib.sha256(asked).hexdigest())
        return keep_file(service, caller, file, form.file, creation)
    finally:
        form.file.discard()


def make_file(caller: Caller, filename: str, purpose: str, received: ReceivedFile, expires_after: int | None) -> File:
    """The row of a file that is not kept yet.

    Args:
        caller: Whose it will be.
        filename: As the client calls it.
        purpose: What it is for.
        received: What was written.
        expires_after: In seconds; None for what its purpose has.

    Raises:
        ApiError: 400 for a name that is too long.
    """
    require_filename(filename)
    now = int(time.time())
    seconds = EXPIRY_BY_PURPOSE.get(purpose) if expires_after is None else expires_after
    return File(
        id=new_id(PREFIXES["files"]),
        project_id=caller.project_id,
        filename=filename,
        purpose=purpose,
        num_bytes=received.num_bytes,
        sha256=received.sha256,
        status="processed",
        status_details=None,
        created_at=now,
        expires_at=None if seconds is None else now + seconds,
    )


def keep_file(
    service: Service, caller: Caller, file: File, received: ReceivedFile, creation: Creation
) -> dict[str, Any]:
    """Give a written file its last name, and its row; the file first, for no row may be without its bytes.

    Args:
        service: Of the server.
        caller: Whose it is.
        file: Its row.
        received: What was written and synced.
        creation: The request, which may have been made before.

    Returns:
        The file as clients see it; the earlier one where the request was made before.

    Raises:
        ApiError: 403 where the project has no room for it.
    """
    path = DataFolder(service.settings.data_dir).file(file.id)
    with service.database.writing() as session:
        earlier = creation.find(session)
        if earlier is not None:
            return file_object(find_file(session, caller, earlier))
        require_storage(session, caller, file.num_bytes)
        received.path.rename(path)
        try:
            sync_folder(path.parent)
            session.add(file)
            creation.keep(session, file.id)
            session.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    service.counters.uploaded(file.num_bytes)
    return file_object(file)


def require_filename(filename: str) -> None:
    """Refuse a name that is too long to be kept or has signs that are none.

    Args:
        filename: As the client calls it.

    Raises:
        ApiError: 400.
    """
    if not 0 < len(filename) <= MAX_FILENAME or any(ord(sign) < 32 for sign in filename):
        raise invalid("filename", f"Invalid 'filename': expected 1 to {MAX_FILENAME} signs that can be printed.")


def _read_fields(form: Form) -> tuple[str, int | None]:
    for name in form.fields:
        if name not in FIELDS:
            shown = name[:100]
            raise invalid(shown, say_unknown(shown, shown, FIELDS), code="unknown_parameter")
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise invalid("purpose", "Missing required parameter: 'purpose'.", code="missing_required_parameter")
    if purpose not in PURPOSES:
        supported = ", ".join(f"'{each}'" for each in PURPOSES)
        raise invalid("purpose", f"Invalid value: '{purpose[:100]}'. Supported values are: {supported}.")
    return purpose, _read_expiry(form.fields.get(FIELDS[1]), form.fields.get(FIELDS[2]))


def _read_expiry(anchor: str | None, seconds: str | None) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise invalid("expires_after.anchor", "Invalid 'expires_after.anchor': the one that is known is 'created_at'.")
    text = seconds or ""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise invalid("expires_after.seconds", "Invalid type for 'expires_after.seconds': expected an integer.")
    if not MIN_EXPIRY_SECONDS <= int(text) <= MAX_EXPIRY_SECONDS:
        expected = f"Expected {MIN_EXPIRY_SECONDS} to {MAX_EXPIRY_SECONDS}, but got {int(text)} instead."
        raise invalid("expires_after.seconds", f"Invalid 'expires_after.seconds': out of range. {expected}")
    return int(text)


@router.get("/files")
def list_files(
    caller: Reader,
    service: TheService,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: Order = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """The files of the project, newest first."""
    query = select(File).where(File.project_id == caller.project_id)
    query = query.where((File.expires_at.is_(None)) | (File.expires_at > int(time.time())))
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    with service.database.reading() as session:
        found = page(session, query, File, after=after, limit=limit, order=order)
    return list_object([file_object(file) for file in found.rows], found.has_more)


@router.get("/files/{file_id}")
def retrieve_file(file_id: str, caller: Reader, service: TheService) -> dict[str, Any]:
    """One file."""
    with service.database.reading() as session:
        return file_object(find_file(session, caller, file_id))


@router.get("/files/{file_id}/content", response_class=StreamingResponse)
def read_file(file_id: str, caller: Reader, service: TheService) -> StreamingResponse:
    """The bytes of a file."""
    with service.database.reading() as session:
        file = find_file(session, caller, file_id)
    try:
        # Open from here on: a file that is deleted meanwhile is still sent whole.
        stream = DataFolder(service.settings.data_dir).file(file.id).open("rb")
    except FileNotFoundError as error:
        raise not_found("File object", file_id) from error
    suffix = file.filename[file.filename.rfind(".") :].lower()
    kind = CONTENT_TYPES.get(suffix, "application/octet-stream")
    headers = {"content-length": str(file.num_bytes), "content-disposition": _say_attachment(file.filename)}
    return StreamingResponse(_read(stream), media_type=kind, headers=headers)


def _say_attachment(filename: str) -> str:
    """A file's own name, to be saved under; what is not ASCII is encoded beside a plain name (RFC 6266, RFC 8187)."""
    plain = "".join(sign if sign.isascii() and sign not in '"\\\x7f' else "_" for sign in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _read(stream: BufferedReader) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


@router.delete("/files/{file_id}")
def delete_file(file_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Delete a file that nothing unfinished reads."""
    with service.database.writing() as session:
        file = find_file(session, caller, file_id, lock=True)
        user = find_use(session, file)
        if user is not None:
            message = (
                f"The file {file_id} is in use by {user}, which is not finished. Cancel that first, or wait for it."
            )
            raise ApiError(400, message, param="file_id", code="file_in_use")
        session.delete(file)
    DataFolder(service.settings.data_dir).file(file_id).unlink(missing_ok=True)
    return {"id": file_id, "object": "file", "deleted": True}
