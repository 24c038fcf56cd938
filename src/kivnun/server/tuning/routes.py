"""Fine-tuning jobs: made, listed, looked at, and told to stop, wait or go on."""

import asyncio
import hashlib
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from kivnun.database.projects import FINISHED
from kivnun.database.tables import FineTuningJob, JobMetadata
from kivnun.jobs.queue import Wanted, want
from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError, invalid
from kivnun.server.folders import is_id
from kivnun.server.idempotency import Creation, read_key
from kivnun.server.pages import list_object, page
from kivnun.server.service import Service
from kivnun.server.tuning.shapes import MAX_PAIRS, CreateJob, job_object
from kivnun.server.tuning.wishes import insert_job, read_wish

router = APIRouter(prefix="/fine_tuning", tags=["fine-tuning"])
Reader = Annotated[Caller, Depends(require("fine_tuning:read"))]
Writer = Annotated[Caller, Depends(require("fine_tuning"))]
TheService = Annotated[Service, Depends(get_service)]
After = Annotated[str | None, Query(max_length=256)]
MAX_PAGE = 1000
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]

# The hosted service answers when a job has stopped, and clients look at the status of that very answer.
PATIENCE_SECONDS, LOOK_SECONDS = 5.0, 0.1
STATUS_OF: dict[Wanted, str] = {"cancel": "cancelled", "pause": "paused"}
PAST: dict[Wanted, str] = {"cancel": "cancelled", "pause": "paused", "run": "resumed"}


@router.post("/jobs")
def create_job(asked: CreateJob, request: Request, caller: Writer, service: TheService) -> dict[str, Any]:
    """Make a job; what is wrong with the content of its files is found later, and fails the job."""
    fingerprint = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    creation = Creation(caller.project_id, read_key(request), "fine_tuning.job", fingerprint)
    with service.database.writing() as session:
        known = creation.find(session)
        if known is None:
            job = insert_job(session, caller, read_wish(session, service, caller, asked))
            creation.keep(session, job.id)
        else:
            job = find_job(session, caller, known)
        note_subject(request, job.id)
        return job_object(job, caller.organization_id)


@router.get("/jobs")
def list_jobs(
    request: Request,
    caller: Reader,
    service: TheService,
    after: After = None,
    limit: Limit = 20,
    metadata: Annotated[str | None, Query()] = None,
) -> dict[str, Any]:
    """The project's jobs, newest first; `metadata[key]=value` chooses among them, `metadata=null` those without."""
    statement = select(FineTuningJob).where(FineTuningJob.project_id == caller.project_id)
    statement = _filter(statement, metadata, _read_pairs(request))
    with service.database.reading() as session:
        found = page(session, statement, FineTuningJob, after=after, limit=limit)
        rows = [job_object(job, caller.organization_id) for job in found.rows]
    return list_object(rows, found.has_more, ids=False)


@router.get("/jobs/{job_id}")
def retrieve_job(job_id: str, caller: Reader, service: TheService) -> dict[str, Any]:
    """One job."""
    with service.database.reading() as session:
        return job_object(find_job(session, caller, job_id), caller.organization_id)


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(job_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Stop a job for good; what it has learnt so far stays in its checkpoints."""
    return await _ask_for(service, caller, job_id, "cancel")


@router.post("/jobs/{job_id}/pause")
async def pause_job(job_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Let a job wait, whatever it does now, until it is resumed."""
    return await _ask_for(service, caller, job_id, "pause")


@router.post("/jobs/{job_id}/resume")
async def resume_job(job_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Let a paused job go on where it stopped."""
    return await _ask_for(service, caller, job_id, "run")


def find_job(session: Session, caller: Caller, job_id: str) -> FineTuningJob:
    """A job of the caller's project.

    Args:
        session: Open for reading.
        caller: Who asks.
        job_id: As the client named it.

    Raises:
        ApiError: 404.
    """
    job = None
    if is_id(job_id, "jobs"):
        mine = FineTuningJob.project_id == caller.project_id
        job = session.scalar(select(FineTuningJob).where(FineTuningJob.id == job_id, mine))
    if job is None:
        raise ApiError(404, f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")
    return job


async def _ask_for(service: Service, caller: Caller, job_id: str, wanted: Wanted) -> dict[str, Any]:
    """Write down what is wanted, and wait a little for whoever works at the job to do it."""
    seen = await run_in_threadpool(_write_wanted, service, caller, job_id, wanted)
    end = time.monotonic() + PATIENCE_SECONDS
    while wanted in STATUS_OF and seen["status"] not in (STATUS_OF[wanted], *FINISHED) and time.monotonic() < end:
        await asyncio.sleep(LOOK_SECONDS)
        seen = await run_in_threadpool(retrieve_job, job_id, caller, service)
    return seen


def _write_wanted(service: Service, caller: Caller, job_id: str, wanted: Wanted) -> dict[str, Any]:
    with service.database.writing() as session:
        job = find_job(session, caller, job_id)
        # From here on its worker cannot change it under our eyes.
        session.refresh(job, with_for_update=True)
        _require_possible(job, wanted)
        want(session, job, wanted)
        return job_object(job, caller.organization_id)


def _require_possible(job: FineTuningJob, wanted: Wanted) -> None:
    """A state that stays is no reason to ask again, so that it is 400: OpenAI's libraries repeat 409."""
    if job.status in FINISHED and job.status != STATUS_OF.get(wanted):
        message = f"Job {job.id} has {job.status} and cannot be {PAST[wanted]}."
        if job.status == "cancelled":
            message = f"Job {job.id} was cancelled and cannot be {PAST[wanted]}."
        raise ApiError(400, message, param="fine_tune_id", code="invalid_job_state")
    if job.wanted == "cancel" and wanted != "cancel":
        message = f"Job {job.id} is being cancelled and cannot be {PAST[wanted]}."
        raise ApiError(400, message, param="fine_tune_id", code="invalid_job_state")


def _read_pairs(request: Request) -> list[tuple[str, str]]:
    """The pairs of `metadata[key]=value`."""
    pairs: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata["):
            if not name.endswith("]"):
                raise invalid("metadata", "Write the filter as metadata[key]=value.")
            pairs.append((name.removeprefix("metadata[")[:-1], value))
    if len(pairs) > MAX_PAIRS:
        raise invalid("metadata", f"A job has at most {MAX_PAIRS} pairs of metadata.")
    return pairs


def _filter(
    statement: Select[FineTuningJob], metadata: str | None, pairs: list[tuple[str, str]]
) -> Select[FineTuningJob]:
    if metadata is not None:
        if metadata != "null" or pairs:
            raise invalid("metadata", "Write the filter as metadata[key]=value, or metadata=null for jobs without any.")
        return statement.where(~exists().where(JobMetadata.job_number == FineTuningJob.number))
    for key, value in pairs:
        if "\0" in key + value:
            raise invalid("metadata", "The filter holds the character NUL, which no metadata has.")
        same = (JobMetadata.key == key) & (JobMetadata.value == value)
        statement = statement.where(exists().where((JobMetadata.job_number == FineTuningJob.number) & same))
    return statement
