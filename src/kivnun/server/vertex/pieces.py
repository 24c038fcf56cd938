"""What a request of an upload in pieces does: it begins one, brings bytes, or asks how many have come."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service
from kivnun.server.errors import ApiError
from kivnun.server.vertex.checksums import read_goog_hash
from kivnun.server.vertex.objects import keep_upload, read_name
from kivnun.server.vertex.related import MAX_HEAD_BYTES
from kivnun.server.vertex.resumable import ResumableUploads, Session, read_range

# Cloud Storage's word for "go on", which HTTP has for another address.
GO_ON = 308


async def begin_upload(request: Request, caller: Caller, root: Path, name: str) -> Response:
    """Begin to take an object in pieces; the reply's `Location` is where they go.

    Args:
        request: Its body says what the object is.
        caller: Who brings it.
        root: Folder of the bucket.
        name: Of the object, where the address has it.

    Raises:
        ApiError: 400 for what cannot be understood, 413 for an object that would be too long, 429 for one too many.
    """
    head = await _read_head(request)
    head = {**head, "name": read_name(head, name)}
    length = request.headers.get("x-upload-content-length", "")
    if length and not (length.isdecimal() and len(length) < 19):
        raise ApiError(400, f"{length[:50]!r} is no number of bytes.", param="X-Upload-Content-Length")
    uploads: ResumableUploads = request.app.state.resumable_uploads
    limit = get_service(request).settings.max_file_bytes
    total = int(length) if length else None
    session = await run_in_threadpool(uploads.begin, caller.project_id, root, head, total, limit)
    note_subject(request, _address(session))
    place = f"{request.url.scheme}://{request.url.netloc}{quote(request.url.path)}"
    return Response(headers={"location": f"{place}?uploadType=resumable&upload_id={session.upload_id}"})


async def take_piece(request: Request, session: Session) -> Response:
    """Take the next bytes of an object: 308 with the bytes that are here, or the object when all are.

    Args:
        request: Its body are the bytes, `Content-Range` says which.
        session: The upload.

    Raises:
        ApiError: 400 for bytes that do not follow those that came, or are not what the client says.
        ClientDisconnect: What came until then is kept.
    """
    uploads: ResumableUploads = request.app.state.resumable_uploads
    piece = read_range(request.headers.get("content-range", ""))
    said = read_goog_hash(request.headers.get("x-goog-hash", ""))
    async with session.lock:
        if session.done is None:
            session.expect(piece)
            try:
                if not await session.receive(piece, request.stream()):
                    held = session.writer.num_bytes
                    return Response(status_code=GO_ON, headers={"range": f"bytes=0-{held - 1}"} if held else {})
                await _finish(request, session, said)
            except ClientDisconnect:
                raise
            except BaseException:
                uploads.drop(session)
                raise
        # Who did not hear the end asks again, and is told the same.
        return JSONResponse(session.done)


async def _finish(request: Request, session: Session, said: dict[str, str]) -> None:
    upload = await session.finish({**session.head, **said})
    session.done = await run_in_threadpool(keep_upload, session.root, session.head["name"], upload)
    get_service(request).counters.uploaded(upload.file.num_bytes)
    note_subject(request, _address(session))


async def _read_head(request: Request) -> dict[str, Any]:
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_HEAD_BYTES:
            raise ApiError(413, f"What your request says of the object has more than {MAX_HEAD_BYTES} bytes.")
    try:
        head = orjson.loads(bytes(text)) if text else {}
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "The body of your request is no JSON.") from error
    if not isinstance(head, dict):
        raise ApiError(400, "The body of your request is no JSON object.")
    return head


def _address(session: Session) -> str:
    return f"gs://{session.root.name}/{session.head['name']}"
