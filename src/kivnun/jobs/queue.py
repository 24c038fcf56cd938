"""The queue: jobs wait in the database, and a worker holds a lease of the one that it works at.

A lease names its holder and a time until which it is certain; the holder moves that time on every second. Whoever finds
a lease that ran out, or whose holder is gone, takes it over. Every change that a worker makes to a job is made in a
transaction that first makes sure that it still holds the lease, so that nobody writes who lost it.

What a client wants (`wanted`) and where a job stands (`status`) are two columns: a client changes the first one, and
who holds the lease, or the client where nobody does, brings the second one there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.tables import FineTuningJob, JobEvent
from kivnun.jobs.turns import in_turn

LEASE_SECONDS = 30.0
LOST_WORKER = 1
CRASH = 20
MOST_ATTEMPTS = 100
"""Five crashes of a job's own processes, or a hundred workers lost, without a step of progress between them: a worker
computes nothing of a job itself, so that its loss says little about the job."""
LOOK_AHEAD = 50
"""How many jobs behind the next one may overtake it because they are smaller."""
OVERTAKING_SECONDS = 600.0
"""For so long: a job that is older and finds no room lets no other one begin, or it would never find any."""

UNFINISHED = ("validating_files", "queued", "running", "paused")
_WORKED_AT = ("validating_files", "queued", "running")
_ADMISSION_LOCK = 0x6B69766E756E
Wanted = Literal["run", "pause", "cancel"]


class LeaseLostError(Exception):
    """Somebody else works at the job now, or it is not there any more."""


@dataclass(frozen=True)
class Lessee:
    """Who asks for a job.

    Attributes:
        name: Written into the lease.
        is_gone: Whether the holder of a lease is known to have ended.
        admits: Whether there is room for a job beside those that run, all of which have leases.
    """

    name: str
    is_gone: Callable[[str], bool]
    admits: Callable[[FineTuningJob, Sequence[FineTuningJob]], bool]


def lease_next(session: Session, lessee: Lessee) -> FineTuningJob | None:
    """Lease the next job that there is something to do for and that there is room for; projects take turns.

    A job whose holder was lost, and did not give the lease back, has one attempt more.

    Args:
        session: A transaction that writes; the lease holds when it is committed.
        lessee: Who asks.
    """
    if session.get_bind().dialect.name == "postgresql":
        # Two that ask at once must not both take the last room.
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMISSION_LOCK})
    now = database_time(session)
    job = _choose(session, lessee, now, lock=True)
    if job is None:
        return None
    if job.lease_owner is not None:
        job.attempts += LOST_WORKER
    job.lease_owner, job.lease_until = lessee.name, now + LEASE_SECONDS
    return job


def has_work(session: Session, lessee: Lessee) -> bool:
    """Whether `lease_next` would find a job; takes no lock."""
    return _choose(session, lessee, database_time(session), lock=False) is not None


def heartbeat(session: Session, job_id: str, owner: str) -> str:
    """Move the end of a lease on, and say what the client wants.

    Raises:
        LeaseLostError: Somebody else holds it.
    """
    job = held(session, job_id, owner)
    job.lease_until = database_time(session) + LEASE_SECONDS
    return job.wanted


def held(session: Session, job_id: str, owner: str) -> FineTuningJob:
    """The job, locked until the transaction ends, of the holder of its lease.

    Raises:
        LeaseLostError: Somebody else holds it.
    """
    statement = select(FineTuningJob).where(FineTuningJob.id == job_id).with_for_update()
    job = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if job is None or job.lease_owner != owner:
        raise LeaseLostError(job_id)
    return job


def release(job: FineTuningJob) -> None:
    """Give a lease back."""
    job.lease_owner, job.lease_until = None, None


def want(session: Session, job: FineTuningJob, wanted: Wanted) -> bool:
    """Write down what a client wants, and do it where nobody works at the job.

    Args:
        session: A transaction that writes.
        job: Read in this transaction.
        wanted: What.

    Returns:
        Whether that changes anything; a job that ended stays as it is.
    """
    session.refresh(job, with_for_update=True)
    if job.status not in UNFINISHED or job.wanted in (wanted, "cancel"):
        return False
    job.wanted = wanted
    if job.lease_owner is None:
        settle(session, job)
    return True


def settle(session: Session, job: FineTuningJob) -> None:
    """Bring a job, which nobody works at, to the status that is wanted, and give its lease back."""
    release(job)
    if job.wanted == "cancel":
        job.status, job.finished_at, job.estimated_finish = "cancelled", int(time.time()), None
        add_event(session, job.id, "cancelled", "The job was cancelled")
    elif job.wanted == "pause":
        if job.status != "paused":
            job.status, job.estimated_finish = "paused", None
            add_event(session, job.id, new_id("paused:"), "The job was paused")
    elif job.status == "paused":
        job.status = "queued"
        add_event(session, job.id, new_id("resumed:"), "The job was resumed, moving job to queued state")
    elif job.status == "running":
        job.status, job.estimated_finish = "queued", None


def unfinished_jobs(session: Session, project_id: str | None = None) -> list[FineTuningJob]:
    """Every job that has not ended, oldest first.

    Args:
        session: Reads.
        project_id: Whose; None for all.
    """
    statement = select(FineTuningJob).where(FineTuningJob.status.in_(UNFINISHED)).order_by(FineTuningJob.number)
    if project_id is not None:
        statement = statement.where(FineTuningJob.project_id == project_id)
    return list(session.scalars(statement))


def add_event(
    session: Session,
    job_id: str,
    source: str,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> bool:
    """Add an event that is made now, once.

    Args:
        session: A transaction that writes.
        job_id: Of the job, which this transaction has locked.
        source: What it is made from; a second event of the same source is not added.
        message: For people.
        level: `info`, `warn` or `error`.
        data: For programs.

    Returns:
        Whether it is new.
    """
    known = select(JobEvent.number).where(JobEvent.job_id == job_id, JobEvent.source == source)
    if session.scalar(known) is not None:
        return False
    session.add(
        JobEvent(
            id=new_id("ftevent-"),
            job_id=job_id,
            source=source,
            level=level,
            type="message",
            message=message,
            data=data or {},
            created_at=int(time.time()),
        )
    )
    session.flush()
    return True


def database_time(session: Session) -> float:
    """The time by which leases are measured: one clock for all machines that share a database."""
    if session.get_bind().dialect.name == "postgresql":
        return float(session.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return time.time()


def _choose(session: Session, lessee: Lessee, now: float, *, lock: bool) -> FineTuningJob | None:
    """The job that may be leased now, of the next that nobody works at; those that take no time come first."""
    jobs = FineTuningJob
    leased = list(session.scalars(select(jobs).where(jobs.status.in_(UNFINISHED), jobs.lease_owner.is_not(None))))
    # One that was leased a moment ago is still `queued`, and its memory is no longer free.
    running = [job for job in leased if job.status != "validating_files" and not _is_free(job, lessee, now)]
    free = [job.number for job in leased if _is_free(job, lessee, now)]
    to_do = or_(jobs.status.in_(_WORKED_AT), (jobs.status == "paused") & (jobs.wanted != "pause"))
    unheld = or_(jobs.lease_owner.is_(None), jobs.number.in_(free))
    needs_room = (jobs.wanted == "run") & (jobs.status != "validating_files")
    # Of files that are validated, those projects have had theirs whose jobs have come further.
    validated = jobs.status.in_(("queued", "running"))
    trains = jobs.number.in_([job.number for job in running])
    waiting = [
        *session.scalars(in_turn(to_do & unheld & ~needs_room, validated, LOOK_AHEAD)),
        *session.scalars(in_turn(to_do & unheld & needs_room, trains, LOOK_AHEAD)),
    ]
    is_full = False
    for job in waiting:
        if _needs_room(job) and (is_full or not lessee.admits(job, running)):
            is_full = is_full or job.created_at < now - OVERTAKING_SECONDS
            continue
        if not lock:
            return job
        statement = select(jobs).where(jobs.number == job.number).with_for_update(skip_locked=True)
        locked = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
        if locked is not None and locked.status in UNFINISHED and _is_free(locked, lessee, now):
            return locked
    return None


def _is_free(job: FineTuningJob, lessee: Lessee, now: float) -> bool:
    if job.lease_owner is None:
        return True
    return (job.lease_until or 0.0) < now or lessee.is_gone(job.lease_owner)


def _needs_room(job: FineTuningJob) -> bool:
    """Whether it would train now; what only stops needs none."""
    return job.wanted == "run" and job.status != "validating_files"
