"""What happens to jobs, for the terminal of whoever runs a server: read from the database, whoever works at them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from kivnun.database.open import Database
from kivnun.database.tables import FineTuningJob
from kivnun.jobs.queue import UNFINISHED

LOOK_SECONDS = 1.0
# A job may end between two looks, while its end is still being written.
_OVERLAP_SECONDS = 30
CREATED = "created"
_MOST_SIGNS = 300


@dataclass(frozen=True)
class JobNews:
    """What happened to a job.

    Attributes:
        job: Its id.
        status: `created`, or the status that it has now.
        model: What is trained, as the client named it.
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
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_at = int(time.time())
        with database.reading() as session:
            self._latest = session.scalar(select(func.max(FineTuningJob.number))) or 0
            unfinished = select(FineTuningJob.id, FineTuningJob.status).where(FineTuningJob.status.in_(UNFINISHED))
            self._known: dict[str, str] = dict(session.execute(unfinished).tuples().all())

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
        jobs, since, now = FineTuningJob, self._looked_at - _OVERLAP_SECONDS, int(time.time())
        is_open = or_(jobs.status.in_(UNFINISHED), jobs.number > self._latest, jobs.finished_at >= since)
        with self._database.reading() as session:
            found = list(session.scalars(select(jobs).where(is_open).order_by(jobs.number)))
        news = [each for job in found for each in self._compare(job)]
        self._looked_at = now
        self._latest = max([self._latest, *(job.number for job in found)])
        self._known = {job.id: job.status for job in found if job.status in UNFINISHED}
        return news

    def _compare(self, job: FineTuningJob) -> Sequence[JobNews]:
        is_new = job.number > self._latest
        if not is_new and self._known.get(job.id, job.status) == job.status:
            return ()
        created = [JobNews(job.id, CREATED, job.model)] if is_new else []
        return created if is_new and job.status == "validating_files" else [*created, _describe(job)]


def _describe(job: FineTuningJob) -> JobNews:
    minutes, problem = None, None
    if job.finished_at is not None:
        minutes = round((job.finished_at - (job.started_at or job.created_at)) / 60, 2)
    if job.status == "failed" and job.error:
        problem = f"{job.error['code']}: {job.error['message']}"
        problem = problem if len(problem) <= _MOST_SIGNS else f"{problem[:_MOST_SIGNS]}..."
    return JobNews(job.id, job.status, job.model, job.fine_tuned_model, job.trained_tokens, minutes, problem)


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
