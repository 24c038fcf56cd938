"""Whether something unfinished still needs a file."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from kivnun.database.projects import FINISHED
from kivnun.database.tables import Batch, File, FineTuningJob

BATCH_FINISHED = ("completed", "failed", "expired", "cancelled")


def is_in_use(session: Session, file: File) -> bool:
    """Whether an unfinished job or batch reads a file.

    Args:
        session: Open for reading.
        file: The file.
    """
    return find_use(session, file) is not None


def find_use(session: Session, file: File) -> str | None:
    """The id of an unfinished job or batch that reads a file; None if there is none.

    Args:
        session: Open for reading.
        file: The file.
    """
    reads = or_(FineTuningJob.training_file == file.id, FineTuningJob.validation_file == file.id)
    unfinished = FineTuningJob.status.not_in(FINISHED)
    same = FineTuningJob.project_id == file.project_id
    job = session.scalar(select(FineTuningJob.id).where(same, reads, unfinished).limit(1))
    if job is not None:
        return job
    query = select(Batch.id).where(
        Batch.project_id == file.project_id, Batch.input_file_id == file.id, Batch.status.not_in(BATCH_FINISHED)
    )
    return session.scalar(query.limit(1))
