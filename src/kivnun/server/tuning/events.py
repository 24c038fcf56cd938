"""What happened to a job, and the models that it keeps from its last epochs."""

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from kivnun.database.tables import JobCheckpoint, JobEvent
from kivnun.server.pages import list_object, page
from kivnun.server.tuning.routes import After, Limit, Reader, TheService, find_job
from kivnun.server.tuning.shapes import checkpoint_object, event_object

router = APIRouter(prefix="/fine_tuning", tags=["fine-tuning"])


@router.get("/jobs/{job_id}/events")
def list_events(
    job_id: str, caller: Reader, service: TheService, after: After = None, limit: Limit = 20
) -> dict[str, Any]:
    """What happened to a job, newest first."""
    with service.database.reading() as session:
        job = find_job(session, caller, job_id)
        statement = select(JobEvent).where(JobEvent.job_id == job.id)
        found = page(session, statement, JobEvent, after=after, limit=limit)
        return list_object([event_object(event) for event in found.rows], found.has_more, ids=False)


@router.get("/jobs/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, caller: Reader, service: TheService, after: After = None, limit: Limit = 10
) -> dict[str, Any]:
    """The models of a job's last epochs, newest first; each can be asked by its name."""
    with service.database.reading() as session:
        job = find_job(session, caller, job_id)
        statement = select(JobCheckpoint).where(JobCheckpoint.job_id == job.id)
        found = page(session, statement, JobCheckpoint, after=after, limit=limit)
        return list_object([checkpoint_object(each) for each in found.rows], found.has_more)
