"""A run's log becomes a job's events and checkpoints, each line exactly once however often reading is cut short.

How many lines were read is kept in the job's row and changed in the transaction that adds what they say.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.open import Database
from kivnun.database.tables import FineTuningJob, JobCheckpoint, JobEvent, Organization, Project, TunedModel
from kivnun.jobs.naming import checkpoint_name, model_name
from kivnun.jobs.private_paths import without_paths
from kivnun.jobs.queue import held
from kivnun.jobs.wording import Fields, Kept, Said, Told, Wording
from kivnun.runs.ending import FAILED

KEPT_CHECKPOINTS = 3
LINES_AT_ONCE = 2000


class Follower:
    """Reads the log of a job's run while it is written.

    Args:
        database: Where events go.
        job_id: The job.
        owner: Name of the holder of its lease.
        path: The log; it need not exist yet.
    """

    def __init__(self, database: Database, job_id: str, owner: str, path: Path) -> None:
        self._database = database
        self._job_id = job_id
        self._owner = owner
        self._path = path
        self._offset = 0
        self._wording = Wording()
        self.failure: Fields | None = None
        with database.reading() as session:
            statement = select(FineTuningJob.events_read).where(FineTuningJob.id == job_id)
            self._lines_told = session.scalar(statement) or 0
        self._pass_over()

    def read(self) -> None:
        """Tell what was written since the last time.

        Raises:
            LeaseLostError: Somebody else works at the job now.
        """
        while lines := self._next_lines(LINES_AT_ONCE):
            for line in lines:
                self._take(line)
            self._tell()

    def _pass_over(self) -> None:
        """Take in what was told already: what follows is told against it."""
        while self._wording.num_lines < self._lines_told:
            lines = self._next_lines(min(LINES_AT_ONCE, self._lines_told - self._wording.num_lines))
            if not lines:
                break
            for line in lines:
                self._wording.take(_parse(line))
        self._wording.forget()

    def _next_lines(self, limit: int) -> list[bytes]:
        """Further whole lines; one that is still being written is read when it is whole."""
        lines: list[bytes] = []
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while len(lines) < limit and (line := file.readline()).endswith(b"\n"):
                    lines.append(line)
        except FileNotFoundError:
            return []
        self._offset += sum(map(len, lines))
        return lines

    def _take(self, line: bytes) -> None:
        event = _parse(line)
        self._wording.take(event)
        self.failure = event if event.get("event") == FAILED else None

    def _tell(self) -> None:
        told = self._wording.hand_over()
        is_later = told.num_lines > self._lines_told
        if not (is_later or told.said or told.kept or told.is_further):
            return
        with self._database.writing() as session:
            job = held(session, self._job_id, self._owner)
            _write(session, job, told)
        self._lines_told = told.num_lines


def _write(session: Session, job: FineTuningJob, told: Told) -> None:
    _add_events(session, job, told.said)
    has_new_model = False
    for kept in told.kept:
        has_new_model |= _add_checkpoint(session, job, kept)
    job.events_read = max(job.events_read, told.num_lines)
    if told.finishes_at is not None:
        job.estimated_finish = told.finishes_at
    if told.is_further or has_new_model:
        # What makes progress is not what kills its workers; each attempt tells of a model that it finds there already.
        job.attempts = 0


def _add_events(session: Session, job: FineTuningJob, said: Sequence[Said]) -> None:
    sources = {one.source for one in said}
    known = select(JobEvent.source).where(JobEvent.job_id == job.id, JobEvent.source.in_(sources))
    told = set(session.scalars(known)) if sources else set()
    for one in said:
        if one.source in told:
            continue
        told.add(one.source)
        session.add(
            JobEvent(
                id=new_id("ftevent-"),
                job_id=job.id,
                source=one.source,
                level=one.level,
                type=one.type,
                message=without_paths(one.message, job.base_model),
                data=dict(one.data),
                created_at=one.at,
            )
        )
    # Numbers follow the order of the lines.
    session.flush()


def _add_checkpoint(session: Session, job: FineTuningJob, kept: Kept) -> bool:
    """A model that clients may use at once, and the end of those that are no longer kept; whether it is new."""
    known = select(JobCheckpoint.number).where(JobCheckpoint.job_id == job.id, JobCheckpoint.step == kept.step)
    if session.scalar(known) is not None:
        return False
    organization = organization_name(session, job)
    name = checkpoint_name(model_name(job, organization), kept.step)
    session.add(
        JobCheckpoint(
            id=new_id("ftckpt_"),
            job_id=job.id,
            model_name=name,
            step=kept.step,
            metrics=dict(kept.metrics),
            created_at=kept.at,
        )
    )
    session.add(
        TunedModel(
            name=name,
            project_id=job.project_id,
            organization_name=organization,
            base_model=job.base_model,
            folder=f"jobs/{job.id}/run/epochs/{Path(kept.folder).name}",
            job_id=job.id,
            checkpoint_step=kept.step,
            created_at=kept.at,
        )
    )
    session.flush()
    steps = select(JobCheckpoint.step).where(JobCheckpoint.job_id == job.id).order_by(JobCheckpoint.step.desc())
    old = session.scalars(steps.offset(KEPT_CHECKPOINTS)).all()
    if old:
        session.execute(delete(JobCheckpoint).where(JobCheckpoint.job_id == job.id, JobCheckpoint.step.in_(old)))
        session.execute(delete(TunedModel).where(TunedModel.job_id == job.id, TunedModel.checkpoint_step.in_(old)))
    return kept.step not in old


def organization_name(session: Session, job: FineTuningJob) -> str:
    """Name of the organisation of a job's project.

    Args:
        session: Reads.
        job: The job.
    """
    statement = select(Organization.name).join(Project).where(Project.id == job.project_id)
    return session.scalars(statement).one()


def _parse(line: bytes) -> Fields:
    """One line; what cannot be read says nothing, and is counted."""
    try:
        event: object = json.loads(line)
    except ValueError:
        return {}
    return cast("Fields", event) if isinstance(event, dict) else {}
