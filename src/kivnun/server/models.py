"""Models: those that this server has, by the names that clients use."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.projects import FINISHED
from kivnun.database.tables import CheckpointPermission, FineTuningJob, JobCheckpoint, TunedModel
from kivnun.jobs.tuned_base import MERGED_NAME
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.embeddings.models import find_embedder
from kivnun.server.errors import ApiError
from kivnun.server.folders import DataFolder
from kivnun.server.model_names import (
    OWNER,
    NamedModel,
    base_model,
    base_models,
    find_base,
    find_model,
    guess_model,
    may_use,
    model_not_found,
    tuned_model,
)
from kivnun.server.service import Service

router = APIRouter(tags=["models"])
Reader = Annotated[Caller, Depends(require("models:read"))]
Writer = Annotated[Caller, Depends(require("models"))]
TheService = Annotated[Service, Depends(get_service)]


def model_object(model: NamedModel) -> dict[str, Any]:
    """A model as clients see it.

    Args:
        model: That the caller may use.
    """
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": model.owner}


@router.get("/models")
def list_models(caller: Reader, service: TheService) -> dict[str, Any]:
    """The tuned models that the caller may use, newest first, the base models, and what embeds texts."""
    with service.database.reading() as session:
        query = select(TunedModel).where(may_use(caller)).order_by(TunedModel.number.desc())
        tuned = [tuned_model(service, row) for row in session.scalars(query)]
    names = base_models(service.settings)
    named = {model.name: model for model in tuned}
    given = {name: named[source] for name, source in service.settings.models.items() if source in named}
    tuned += [replace(model, name=name) for name, model in given.items()]
    bases = [base_model(service.settings, name, source) for name, source in names.items()]
    embedder = find_embedder(service.settings)
    embedders = [] if embedder is None or embedder in names else [_embedder_object(embedder)]
    return {"object": "list", "data": [*(model_object(each) for each in [*tuned, *bases]), *embedders]}


def _embedder_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


@router.get("/models/{model:path}")
def retrieve_model(model: str, caller: Reader, service: TheService) -> dict[str, Any]:
    """One model, under any name that it can be asked by."""
    if model == find_embedder(service.settings) and find_base(service.settings, model) is None:
        return _embedder_object(model)
    with service.database.reading() as session:
        return model_object(find_model(session, service, caller, model))


@router.delete("/models/{model:path}")
def delete_model(model: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Delete a tuned model or a checkpoint; its job stays, with its events and results."""
    with service.database.writing() as session:
        row = session.scalar(
            select(TunedModel).where(TunedModel.name == model, TunedModel.project_id == caller.project_id)
        )
        if row is None:
            _refuse(session, service, caller, model)
            raise model_not_found(model, guess_model(session, service, caller, model))
        folder, job_id = row.folder, row.job_id
        _require_unused(session, DataFolder(service.settings.data_dir), row)
        session.query(CheckpointPermission).filter_by(model_name=model).delete()
        session.query(JobCheckpoint).filter_by(model_name=model).delete()
        session.delete(row)
        session.flush()
        kept = session.scalar(select(TunedModel.name).where(TunedModel.folder == folder).limit(1))
        needs_base = _needs_base(session, job_id)
    data = DataFolder(service.settings.data_dir)
    if kept is None:
        _free(data, data.root / folder, job_id)
    if not needs_base:
        _free(data, data.job(job_id) / MERGED_NAME, job_id)
    return {"id": model, "object": "model", "deleted": True}


def _refuse(session: Session, service: Service, caller: Caller, model: str) -> None:
    """A model that can be seen and not deleted is refused as such."""
    permitted = session.scalar(select(TunedModel.name).where(TunedModel.name == model, may_use(caller)))
    is_embedder = model == find_embedder(service.settings)
    if permitted is not None or is_embedder or find_base(service.settings, model) is not None:
        message = f"You may not delete the model {model}: only tuned models of your own project can be deleted."
        raise ApiError(403, message, param="model", code="model_not_deletable")


def _require_unused(session: Session, folder: DataFolder, model: TunedModel) -> None:
    """Refuse while a job waits to start from a model; once it has, it has a copy."""
    waiting = select(FineTuningJob.id).where(
        FineTuningJob.base_model == model.folder, FineTuningJob.status.not_in(FINISHED)
    )
    if any(not (folder.job(job_id) / MERGED_NAME).is_dir() for job_id in session.scalars(waiting)):
        message = f"A fine-tuning job that is not finished starts from {model.name}. Cancel it first, or wait for it."
        raise ApiError(400, message, param="model", code="model_in_use")


def _needs_base(session: Session, job_id: str) -> bool:
    """Whether anything still lies upon the weights that a job made of the model that it went on from."""
    left = session.scalar(select(TunedModel.name).where(TunedModel.job_id == job_id).limit(1))
    return left is not None or session.scalars(select(FineTuningJob.status).filter_by(id=job_id)).one() not in FINISHED


def _free(folder: DataFolder, model_folder: Path, job_id: str) -> None:
    """Give the disk back: a folder in the folder of a job."""
    path = model_folder.resolve()
    job = folder.job(job_id).resolve()
    if job in path.parents:
        # Under another name first: whoever opens it now finds it whole or not at all.
        gone = path.with_name(f".deleted-{path.name}")
        if path.is_dir():
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
