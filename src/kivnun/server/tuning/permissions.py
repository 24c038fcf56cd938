"""Checkpoint permissions: other projects of the organisation that may use a tuned model or a checkpoint of one.

The owner's project gives and takes them, with a key that may fine-tune. Nobody else learns that the model is there.
"""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.tables import CheckpointPermission, Project, TunedModel
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError, not_found
from kivnun.server.model_names import model_not_found
from kivnun.server.pages import Order, list_object, page
from kivnun.server.tuning.routes import After, Limit, Reader, TheService, Writer
from kivnun.server.tuning.shapes import GrantPermissions, permission_object

router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["fine-tuning"])
KIND = "checkpoint permission"
ORDERS: dict[str, Order] = {"ascending": "asc", "descending": "desc"}


@router.post("/{checkpoint:path}/permissions")
def grant_permissions(checkpoint: str, asked: GrantPermissions, caller: Writer, service: TheService) -> dict[str, Any]:
    """Let projects use a model; those that may already keep the permission that they have."""
    with service.database.writing() as session:
        _require_own(session, caller, checkpoint)
        granted = [_grant(session, caller, checkpoint, each) for each in dict.fromkeys(asked.project_ids)]
        return list_object([permission_object(each) for each in granted], has_more=False)


@router.get("/{checkpoint:path}/permissions")
def list_permissions(
    checkpoint: str,
    caller: Reader,
    service: TheService,
    project_id: Annotated[str | None, Query(max_length=256)] = None,
    after: After = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> dict[str, Any]:
    """The projects that may use a model, newest permission first."""
    with service.database.reading() as session:
        _require_own(session, caller, checkpoint)
        statement = select(CheckpointPermission).where(CheckpointPermission.model_name == checkpoint)
        if project_id is not None:
            statement = statement.where(CheckpointPermission.project_id == project_id)
        found = page(session, statement, CheckpointPermission, after=after, limit=limit, order=ORDERS[order])
        return list_object([permission_object(each) for each in found.rows], found.has_more)


@router.delete("/{checkpoint:path}/permissions/{permission_id}")
def revoke_permission(checkpoint: str, permission_id: str, caller: Writer, service: TheService) -> dict[str, Any]:
    """Take a permission back; answers that are being made are still made."""
    with service.database.writing() as session:
        _require_own(session, caller, checkpoint)
        named = (CheckpointPermission.id == permission_id, CheckpointPermission.model_name == checkpoint)
        permission = session.scalar(select(CheckpointPermission).where(*named))
        if permission is None:
            raise not_found(KIND, permission_id, param="permission_id")
        session.delete(permission)
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _require_own(session: Session, caller: Caller, checkpoint: str) -> None:
    mine = TunedModel.project_id == caller.project_id
    if session.scalar(select(TunedModel.number).where(TunedModel.name == checkpoint, mine)) is None:
        raise model_not_found(checkpoint)


def _grant(session: Session, caller: Caller, checkpoint: str, project_id: str) -> CheckpointPermission:
    ours = Project.organization_id == caller.organization_id
    if session.scalar(select(Project.id).where(Project.id == project_id, ours)) is None:
        message = f"No such project in your organization: {project_id}"
        raise ApiError(400, message, param="project_ids", code="invalid_project")
    same = (CheckpointPermission.model_name == checkpoint, CheckpointPermission.project_id == project_id)
    permission = session.scalar(select(CheckpointPermission).where(*same))
    if permission is None:
        permission = CheckpointPermission(
            id=new_id("cp_"), model_name=checkpoint, project_id=project_id, created_at=int(time.time())
        )
        session.add(permission)
        session.flush()
    return permission
