"""What happens to jobs, for the terminal of whoever runs a server: read from the database, whoever works at them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from kivnun.database.open import Database
from kivnun.database.tables import FineTuningJob
from kivnun.jobs.queue import UNFINISHED

LOOK_SECONDS = 1.0
_PART = 500
CREATED = "created"
_MOST_SIGNS = 300


@dataclass(frozen=True)
class JobNews:
    """What happened to a job.

    Attributes:
        job: Its id.
        status: `created`, or the status that it has now.
        model: What is trained: as the client named it, and what stands in for it.
        fine_tuned_model: What became of it.
        trained_tokens: Tokens that it was trained on.
        minutes: How long it took; None while it goes on.
        problem: Why it failed.
    """

    job: str
    status: str
    model: str
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    minutes: float | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {"event": "job", **asdict(self)}

    def __str__(self) -> str:
        """For people, in one line."""
        took = "" if self.minutes is None else f" after {self.minutes:.1f} minutes"
        said = {
            CREATED: f"was created, to train {self.model}",
            "validating_files": "has its files checked",
            "queued": "waits for a worker",
            "running": f"trains {self.model}",
            "paused": "is paused",
            "succeeded": f"succeeded{took}: {self.fine_tuned_model}, trained on {self.trained_tokens or 0:,} tokens",
            "failed": f"failed{took}: {self.problem}",
            "cancelled": f"was cancelled{took}",
        }
        return f"job {self.job} {said.get(self.status, self.status)}"


class JobWatch:
    """Tells what changed since the last time.

    Args:
        database: Where jobs are.
        say_model: What a person is told of the model that a client named.
    """

    def __init__(self, database: Database, say_model: Callable[[str], str] = str) -> None:
        self._database = database
        self._say_model = say_model
        with database.reading() as session:
            self._latest = session.scalar(select(func.max(FineTuningJob.number))) or 0
            self._known = _read_unfinished(session)

    @property
    def num_unfinished(self) -> int:
        """Jobs that have not ended."""
        return len(self._known)

    def count_running(self) -> int:
        """Jobs that are computed now; 0 where the database cannot tell."""
        running = select(func.count()).where(FineTuningJob.status == "running")
        with suppress(SQLAlchemyError), self._database.reading() as session:
            return session.scalar(running) or 0
        return 0

    def look(self) -> list[JobNews]:
        """What happened since the last look."""
        jobs = FineTuningJob
        with self._database.reading() as session:
            unfinished = _read_unfinished(session)
            changed = [job_id for job_id, status in self._known.items() if unfinished.get(job_id) != status]
            # In parts, for a database takes only so many values at once.
            parts = (changed[place : place + _PART] for place in range(0, len(changed), _PART))
            found = [job for part in parts for job in session.scalars(select(jobs).where(jobs.id.in_(part)))]
            found += session.scalars(select(jobs).where(jobs.number > self._latest))
        news = [each for job in sorted(found, key=lambda each: each.number) for each in self._tell(job)]
        self._latest = max([self._latest, *(job.number for job in found)])
        self._known = unfinished | {job.id: job.status for job in found if job.status in UNFINISHED}
        return news

    def _tell(self, job: FineTuningJob) -> list[JobNews]:
        if job.number <= self._latest:
            return [self._describe(job)]
        created = [JobNews(job.id, CREATED, self._say_model(job.model))]
        return created if job.status == "validating_files" else [*created, self._describe(job)]

    def _describe(self, job: FineTuningJob) -> JobNews:
        minutes, problem = None, None
        if job.finished_at is not None:
            minutes = round((job.finished_at - (job.started_at or job.created_at)) / 60, 2)
        if job.status == "failed" and job.error:
            problem = f"{job.error['code']}: {job.error['message']}"
            problem = problem if len(problem) <= _MOST_SIGNS else f"{problem[:_MOST_SIGNS]}..."
        model = self._say_model(job.model)
        return JobNews(job.id, job.status, model, job.fine_tuned_model, job.trained_tokens, minutes, problem)


def _read_unfinished(session: Session) -> dict[str, str]:
    """The status of every job that has not ended."""
    rows = select(FineTuningJob.id, FineTuningJob.status).where(FineTuningJob.status.in_(UNFINISHED))
    return {row.id: row.status for row in session.execute(rows)}


async def tell_jobs(watch: JobWatch, tell: Callable[[JobNews], None], ended: asyncio.Event) -> None:
    """Tell what happens, until nothing will any more.

    Args:
        watch: Looks.
        tell: Takes one thing after another.
        ended: Set when no worker of this server is left.
    """
    is_last = False
    while not is_last:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await ended.wait()
        is_last = ended.is_set()
        # A database that restarts comes back; what happened meanwhile is told then.
        with suppress(SQLAlchemyError):
            for news in await asyncio.to_thread(watch.look):
                tell(news)
