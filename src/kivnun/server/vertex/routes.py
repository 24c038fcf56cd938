"""A small Vertex face: tuning jobs and answers at Google's addresses, over the server's own jobs and models.

google-genai tunes and asks here with its base URL set; the data lies in a local bucket folder instead of Cloud Storage.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from kivnun.database.tables import File, FineTuningJob, JobCheckpoint, VertexJob
from kivnun.jobs.queue import want
from kivnun.runs.atomic import sync_folder
from kivnun.server.audit_requests import note_subject
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError, not_found
from kivnun.server.files.routes import make_file
from kivnun.server.folders import DataFolder
from kivnun.server.limits import require_storage
from kivnun.server.service import Service
from kivnun.server.tuning.shapes import CreateJob
from kivnun.server.tuning.wishes import PURPOSE, insert_job, read_wish
from kivnun.server.vertex.bucket import copy_object, find_object
from kivnun.server.vertex.errors import GoogleRoute
from kivnun.server.vertex.shapes import ENDED, CreateTuningJob, PreferenceOptimizationSpec, TuningJob

PREFIXES = ("/v1", "/v1beta1")
MAX_PAGE = 1000
router = APIRouter(prefix="/projects/{project}/locations/{location}", tags=["vertex"], route_class=GoogleRoute)
Reader = Annotated[Caller, Depends(require("fine_tuning:read"))]
Writer = Annotated[Caller, Depends(require("fine_tuning"))]
TheService = Annotated[Service, Depends(get_service)]
Place = Annotated[str, Path(pattern=r"^[a-zA-Z0-9._:-]{1,128}$")]
Number = Annotated[int, Path(ge=1, lt=10**9)]


@router.post("/tuningJobs")
def create_tuning_job(
    asked: CreateTuningJob, project: Place, location: Place, request: Request, caller: Writer, service: TheService
) -> dict[str, Any]:
    """Make a tuning job from files of the bucket folder; what is wrong with their rows is found later, and fails it."""
    spec = asked.spec
    if spec is None:
        raise ApiError(400, "Give one of supervisedTuningSpec and preferenceOptimizationSpec.")
    uris = {"trainingDatasetUri": spec.training_dataset_uri}
    if spec.validation_dataset_uri is not None:
        uris["validationDatasetUri"] = spec.validation_dataset_uri
    with _copied(service, caller, uris) as files, service.database.writing() as session:
        require_storage(session, caller, sum(file.num_bytes for file in files))
        session.add_all(files)
        session.flush()
        wish = read_wish(session, service, caller, _to_openai(asked, [file.id for file in files]))
        rank = spec.hyper_parameters.rank
        job = insert_job(session, caller, replace(wish, asked={**wish.asked, **({"rank": rank} if rank else {})}))
        told = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
        vertex = VertexJob(job_id=job.id, cloud_project=project, location=location, asked=told)
        session.add(vertex)
        session.flush()
        note_subject(request, job.id)
        return TuningJob(vertex, job).to_json()


@router.get("/tuningJobs")
def list_tuning_jobs(
    project: Place,
    location: Place,
    caller: Reader,
    service: TheService,
    page_size: Annotated[int, Query(alias="pageSize", ge=0)] = 0,
    page_token: Annotated[str, Query(alias="pageToken", pattern=r"^\d{0,12}$")] = "",
) -> dict[str, Any]:
    """The tuning jobs of a place, newest first."""
    limit = min(page_size or 100, MAX_PAGE)
    statement = _jobs_of(caller, project, location).order_by(VertexJob.number.desc()).limit(limit + 1)
    if page_token:
        statement = statement.where(VertexJob.number < int(page_token))
    with service.database.reading() as session:
        rows = session.execute(statement).all()
        jobs = [_with_checkpoints(session, vertex, job).to_json() for vertex, job in rows[:limit]]
        more = {"nextPageToken": str(rows[limit - 1][0].number)} if len(rows) > limit else {}
    return {"tuningJobs": jobs, **more}


@router.get("/tuningJobs/{number}")
def get_tuning_job(
    number: Number, project: Place, location: Place, caller: Reader, service: TheService
) -> dict[str, Any]:
    """One tuning job."""
    with service.database.reading() as session:
        vertex, job = _find_job(session, caller, project, location, number)
        return _with_checkpoints(session, vertex, job).to_json()


@router.post("/tuningJobs/{number}:cancel")
def cancel_tuning_job(
    number: Number, project: Place, location: Place, caller: Writer, service: TheService
) -> dict[str, Any]:
    """Stop a job for good; its state is JOB_STATE_CANCELLING until its worker has heard of it."""
    with service.database.writing() as session:
        _, job = _find_job(session, caller, project, location, number)
        session.refresh(job, with_for_update=True)
        if job.status in ENDED:
            message = f"The tuning job {number} has ended ({job.status}) and cannot be cancelled."
            raise ApiError(400, message, code="invalid_job_state")
        want(session, job, "cancel")
    return {}


def _jobs_of(caller: Caller, project: str, location: str) -> Select[VertexJob, FineTuningJob]:
    return (
        select(VertexJob, FineTuningJob)
        .join(FineTuningJob, FineTuningJob.id == VertexJob.job_id)
        .where(
            FineTuningJob.project_id == caller.project_id,
            VertexJob.cloud_project == project,
            VertexJob.location == location,
        )
    )


def _find_job(
    session: Session, caller: Caller, project: str, location: str, number: int
) -> tuple[VertexJob, FineTuningJob]:
    row = session.execute(_jobs_of(caller, project, location).where(VertexJob.number == number)).one_or_none()
    if row is None:
        raise not_found("tuning job", str(number))
    return row[0], row[1]


def _with_checkpoints(session: Session, vertex: VertexJob, job: FineTuningJob) -> TuningJob:
    query = select(JobCheckpoint.step).where(JobCheckpoint.job_id == job.id).order_by(JobCheckpoint.step)
    return TuningJob(vertex, job, session.scalars(query).all())


def _to_openai(asked: CreateTuningJob, file_ids: Sequence[str]) -> CreateJob:
    """The same job in OpenAI's words, which check it."""
    kind = "dpo" if isinstance(asked.spec, PreferenceOptimizationSpec) else "supervised"
    return CreateJob.model_validate(
        {
            "model": asked.model_name,
            "training_file": file_ids[0],
            "validation_file": file_ids[1] if len(file_ids) > 1 else None,
            "method": {"type": kind, kind: {"hyperparameters": asked.hyperparameters()}},
            "suffix": asked.suffix,
        }
    )


@contextmanager
def _copied(service: Service, caller: Caller, uris: dict[str, str]) -> Iterator[list[File]]:
    """Copies of the bucket's files among the project's, with the rows to add; they go again if the block fails."""
    settings = service.settings
    folder = DataFolder(settings.data_dir)
    paths = {name: find_object(settings.bucket_dir, uri, name) for name, uri in uris.items()}
    files: list[File] = []
    try:
        for name, path in paths.items():
            copy = copy_object(path, folder.files, settings.max_file_bytes, name)
            files.append(make_file(caller, copy.filename, PURPOSE, copy, None))
            copy.path.rename(folder.file(files[-1].id))
        sync_folder(folder.files)
        yield files
    except BaseException:
        for file in files:
            folder.file(file.id).unlink(missing_ok=True)
        raise
