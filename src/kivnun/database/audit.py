"""Who changed what: rows that are added and never changed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.tables import AuditEntry

MAX_NAME = 64


@dataclass(frozen=True)
class Change:
    """A request that changed something, or was not allowed to.

    Attributes:
        action: What was asked for, such as `POST /v1/fine_tuning/jobs`.
        subject: The ids of what it was about.
        status: The HTTP status of the answer.
        address: Where the request came from.
        request_id: As the answer's `x-request-id` says.
        project_id: Whose it is.
        key_id: The key that was used; None for a server without keys, and for the command line.
    """

    action: str
    subject: str
    status: int
    address: str
    request_id: str
    project_id: str | None = None
    key_id: str | None = None


def record(session: Session, change: Change, *, now: float | None = None) -> None:
    """Add a line to the audit log, in the caller's transaction."""
    entry = AuditEntry(
        at=int(time.time() if now is None else now),
        project_id=change.project_id,
        key_id=change.key_id,
        action=change.action[:MAX_NAME],
        subject=change.subject,
        status=change.status,
        address=change.address[:MAX_NAME],
        request_id=change.request_id[:MAX_NAME],
    )
    session.add(entry)


def list_changes(
    session: Session, *, limit: int, project_id: str | None = None, before: int | None = None
) -> Sequence[AuditEntry]:
    """The newest lines of the audit log first.

    Args:
        session: To read with.
        limit: At most this many.
        project_id: Those of one project.
        before: Those older than the line of this number.
    """
    query = select(AuditEntry).order_by(AuditEntry.number.desc()).limit(limit)
    query = query if project_id is None else query.where(AuditEntry.project_id == project_id)
    return session.scalars(query if before is None else query.where(AuditEntry.number < before)).all()
