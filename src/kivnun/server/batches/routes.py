"""Batches: a file of requests that are answered when there is room, and files of what came of them."""

import hashlib
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.tables import Batch
from kivnun.server.audit_requests import note_subject
from kivnun.server.bodies import RequestBody
from kivnun.server.callers import Caller, get_service, require, require_scope
from kivnun.server.errors import ApiError, not_found
from kivnun.server.files.routes import MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS, find_file
from kivnun.server.files.use import BATCH_FINISHED
from kivnun.server.folders import PREFIXES
from kivnun.server.idempotency import Creation, read_key
from kivnun.server.pages import list_object, page
from kivnun.server.service import Service
from kivnun.server.tuning.shapes import Metadata

router = APIRouter(tags=["batches"])
PURPOSE = "batch"
# What the lines of a batch do, its key must be allowed to do over HTTP.
SCOPE_OF_LINES = {
    "/v1/chat/completions": "inference",
    "/v1/completions": "inference",
    "/v1/embeddings": "inference:read",
}
WINDOW, WINDOW_SECONDS = "24h", 24 * 3600
TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)

Reader = Annotated[Caller, Depends(require("batches:read"))]
Writer = Annotated[Caller, Depends(require("batches"))]
TheService = Annotated[Service, Depends(get_service)]


class ExpiresAfter(RequestBody):
    """When the files of the answers go by themselves."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)]


class CreateBatch(RequestBody):
    """A batch that is asked for."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=256)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


def batch_object(batch: Batch) -> dict[str, Any]:
    """A batch as clients see it; what it has not is left out, for OpenAI's schema takes no null there.

    Args:
        batch: Of the caller's project.
    """
    told: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "created_at": batch.created_at,
        "request_counts": {"total": batch.num_total, "completed": batch.num_completed, "failed": batch.num_failed},
        "metadata": batch.metadata_,
    }
    if batch.errors:
        told["errors"] = {"object": "list", "data": batch.errors}
    files = {"output_file_id": batch.output_file_id, "error_file_id": batch.error_file_id}
    told |= {name: file_id for name, file_id in files.items() if file_id is not None}
    if batch.model is not None:
        told["model"] = batch.model
    if batch.usage is not None:
        told["usage"] = batch.usage
    return told | {name: batch.times[name] for name in TIMES if name in batch.times}


@router.post("/batches")
def create_batch(asked: CreateBatch, request: Request, caller: Writer, service: TheService) -> dict[str, Any]:
    """Make a batch; what is wrong with the lines of its file is found later, and fails it."""
    require_scope(caller, SCOPE_OF_LINES[asked.endpoint])
    fingerprint = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    creation = Creation(caller.project_id, read_key(request), "batch", fingerprint)
    with service.database.writing() as session:
        known = creation.find(session)
        if known is None:
            batch = _insert(session, caller, asked)
            creation.keep(session, batch.id)
        else:
            batch = find_batch(session, caller, known)
        note_subject(request, batch.id)
        return batch_object(batch)


def _insert(session: Session, caller: Caller, asked: CreateBatch) -> Batch:
    file = find_file(session, caller, asked.input_file_id, lock=True)
    if file.purpose != PURPOSE:
        message = f"The purpose of {file.id} is `{file.purpose}`, and must be `{PURPOSE}`."
        raise ApiError(400, message, param="input_file_id", code="invalid_file_purpose")
    now = int(time.time())
    expires = asked.output_expires_after
    batch = Batch(
        id=new_id(PREFIXES["batches"]),
        project_id=caller.project_id,
        endpoint=asked.endpoint,
        input_file_id=file.id,
        completion_window=asked.completion_window,
        status="validating",
        errors=[],
        output_expires_after=None if expires is None else expires.seconds,
        metadata_=asked.metadata,
        num_total=0,
        num_completed=0,
        num_failed=0,
        times={"expires_at": now + WINDOW_SECONDS},
        created_at=now,
    )
    session.add(batch)
    session.flush()
    return batch


@router.get("/batches")
def list_batches(
    caller: Reader,
    service: TheService,
    after: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """The project's batches, newest first."""
    statement = select(Batch).where(Batch.project_id == caller.project_id)
    with service.database.reading() as session:
        found = page(session, statement, Batch, after=after, limit=limit)
        rows = [batch_object(batch) for batch in found.rows]
    return list_object(rows, found.has_more)


@router.get("/batches/{batch_id}")
def retrieve_batch(batch_id: str, caller: Reader, service: TheService) -> dict[str, Any]:
    """One batch."""
    with service.database.reading() as session:
        return batch_object(find_batch(session, caller, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel_batch(batch_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Stop a batch; what was answered until then is kept."""
    with service.database.writing() as session:
        batch = find_batch(session, caller, batch_id)
        session.refresh(batch, with_for_update=True)
        if batch.status in BATCH_FINISHED and batch.status != "cancelled":
            message = f"Cannot cancel the batch {batch_id}: its status is `{batch.status}`."
            raise ApiError(400, message, param="batch_id", code="invalid_batch_state")
        # Where all is answered already, cancelling would only take the answers away.
        if batch.status in ("validating", "in_progress"):
            batch.status = "cancelling"
            batch.times = {**batch.times, "cancelling_at": int(time.time())}
        return batch_object(batch)


def find_batch(session: Session, caller: Caller, batch_id: str) -> Batch:
    """A batch of the caller's project.

    Args:
        session: Open for reading.
        caller: Who asks.
        batch_id: As the client named it.

    Raises:
        ApiError: 404.
    """
    batch = session.scalar(select(Batch).where(Batch.id == batch_id, Batch.project_id == caller.project_id))
    if batch is None:
        raise not_found("Batch object", batch_id, param="batch_id")
    return batch
