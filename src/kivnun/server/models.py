"""Models: those that this server has, by the names that clients use."""

import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.tables import CheckpointPermission, JobCheckpoint, TunedModel
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.errors import ApiError
from kivnun.server.folders import DataFolder
from kivnun.server.model_names import (
    NamedModel,
    base_model,
    base_models,
    find_base,
    find_model,
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
    """The base models, and the tuned ones that the caller may use, newest first."""
    with service.database.reading() as session:
        query = select(TunedModel).where(may_use(caller)).order_by(TunedModel.number.desc())
        tuned = [tuned_model(service, row) for row in session.scalars(query)]
    bases = [base_model(service.settings, name, source) for name, source in base_models(service.settings).items()]
    return {"object": "list", "data": [model_object(each) for each in [*tuned, *bases]]}


@router.get("/models/{model:path}")
def retrieve_model(model: str, caller: Reader, service: TheService) -> dict[str, Any]:
    """One model, under any name that it can be asked by."""
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
            raise model_not_found(model)
        folder, job_id = row.folder, row.job_id
        session.query(CheckpointPermission).filter_by(model_name=model).delete()
        session.query(JobCheckpoint).filter_by(model_name=model).delete()
        session.delete(row)
        session.flush()
        kept = session.scalar(select(TunedModel.name).where(TunedModel.folder == folder).limit(1))
    if kept is None:
        _free(DataFolder(service.settings.data_dir), folder, job_id)
    return {"id": model, "object": "model", "deleted": True}


def _refuse(session: Session, service: Service, caller: Caller, model: str) -> None:
    """A model that can be seen and not deleted is refused as such."""
    permitted = session.scalar(select(TunedModel.name).where(TunedModel.name == model, may_use(caller)))
    if permitted is not None or find_base(service.settings, model) is not None:
        message = f"You may not delete the model {model}: only tuned models of your own project can be deleted."
        raise ApiError(403, message, param="model", code="model_not_deletable")


def _free(folder: DataFolder, model_folder: str, job_id: str) -> None:
    """Give the disk back: the folder of the model, which lies in the folder of its job."""
    path = (folder.root / model_folder).resolve()
    job = folder.job(job_id).resolve()
    if job in path.parents:
        # Under another name first: whoever opens it now finds it whole or not at all.
        gone = path.with_name(f".deleted-{path.name}")
        if path.is_dir():
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
