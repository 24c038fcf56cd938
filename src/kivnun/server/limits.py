"""How much a project may ask for now: requests and tokens per minute in memory, bytes and jobs in the database."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.projects import count_storage, count_unfinished_jobs
from kivnun.database.tables import Project
from kivnun.server.errors import ApiError
from kivnun.server.known_keys import KnownKeys

if TYPE_CHECKING:
    from kivnun.server.callers import Caller

SECONDS = 60.0
KINDS = ("requests", "tokens")
# Nobody knows when a job ends; looking once a minute costs nothing.
JOB_SECONDS = 60


@dataclass
class Bucket:
    """A token bucket: full at first, refilled evenly, and what is not there cannot be taken.

    Attributes:
        level: What is left.
        at: When that was so.
    """

    level: float
    at: float

    def refill(self, capacity: int, now: float) -> None:
        """Let in what came since it was last looked at; a lower capacity holds at once."""
        self.level = min(self.level + (now - self.at) * capacity / SECONDS, float(capacity))
        self.at = now

    def seconds_until(self, amount: float, capacity: int) -> float:
        """How long until it holds an amount."""
        return max(0.0, (amount - self.level) * SECONDS / capacity)


class Limits:
    """What is remembered between requests: how much each project asked for, and the keys just seen.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.known_keys = KnownKeys(clock)
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._lock = threading.Lock()

    def take_request(self, caller: "Caller") -> None:
        """Count one request.

        Raises:
            ApiError: 429, if the project has made as many as it may.
        """
        self._take(caller, "requests", 1)

    def require_request(self, caller: "Caller") -> None:
        """Look whether `take_request` would let one in, before anything is done for it.

        Raises:
            ApiError: 429.
        """
        self._take(caller, "requests", 1, kept=1)

    def take_tokens(self, caller: "Caller", num_tokens: int) -> None:
        """Count the tokens that a request may need: those of its prompt, and the most that it may be answered with.

        Raises:
            ApiError: 429, if the project must wait for them, or could never have so many.
        """
        self._take(caller, "tokens", num_tokens)

    def spend_tokens(self, caller: "Caller", num_tokens: int) -> None:
        """Count tokens that were used already; what is not there is owed, and later requests wait for it."""
        self.give_back_tokens(caller, -num_tokens)

    def give_back_tokens(self, caller: "Caller", num_tokens: int) -> None:
        """Return what was taken and not used."""
        capacity = caller.quotas.max_tokens_per_minute
        if capacity is None:
            return
        with self._lock:
            bucket = self._bucket(caller.project_id, "tokens", capacity)
            bucket.level = min(bucket.level + num_tokens, float(capacity))

    def headers(self, caller: "Caller") -> dict[str, str]:
        """`x-ratelimit-*` for the limits that the project has."""
        found: dict[str, str] = {}
        with self._lock:
            for kind in KINDS:
                capacity = _capacity(caller, kind)
                if capacity is None:
                    continue
                bucket = self._bucket(caller.project_id, kind, capacity)
                found[f"x-ratelimit-limit-{kind}"] = str(capacity)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{kind}"] = say_seconds(bucket.seconds_until(capacity, capacity))
        return found

    def _take(self, caller: "Caller", kind: str, amount: int, *, kept: int = 0) -> None:
        capacity = _capacity(caller, kind)
        if capacity is None:
            return
        with self._lock:
            bucket = self._bucket(caller.project_id, kind, capacity)
            if bucket.level >= amount:
                bucket.level -= amount - kept
                return
            wait = bucket.seconds_until(amount, capacity)
        raise self._refusal(caller, kind, amount, capacity, wait)

    def _refusal(self, caller: "Caller", kind: str, amount: int, capacity: int, wait: float) -> ApiError:
        headers = self.headers(caller)
        start = f"project {caller.project_id} on {kind} per min: Limit {capacity}"
        if amount > capacity:
            # It will never fit, so nobody should come again with it.
            message = f"Request too large for {start}, Requested {amount}."
            headers["x-should-retry"] = "false"
        else:
            message = f"Rate limit reached for {start}. Please try again in {say_seconds(wait)}."
            headers |= {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        return ApiError(429, message, type=kind, code="rate_limit_exceeded", headers=headers)

    def _bucket(self, project_id: str, kind: str, capacity: int) -> Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault((project_id, kind), Bucket(float(capacity), now))
        bucket.refill(capacity, now)
        return bucket


def require_storage(session: Session, caller: "Caller", num_bytes: int) -> None:
    """Refuse bytes that a project has no room for.

    Args:
        session: Of `Database.writing()`, in which the rows of the new bytes are added too: no other request may count
            the same room in between.
        caller: Whose project it is.
        num_bytes: How many would come.

    Raises:
        ApiError: 403 `storage_quota_exceeded`.
    """
    project = _lock_project(session, caller.project_id)
    if project.max_storage_bytes is None:
        return
    used = count_storage(session, project.id)
    if used + num_bytes > project.max_storage_bytes:
        message = (
            f"The project may keep {project.max_storage_bytes} bytes, keeps {used}, and {num_bytes} more "
            "would not fit. Delete files, or let whoever runs this server raise the quota."
        )
        raise no_room(message)


def no_room(message: str) -> ApiError:
    """What is answered for bytes that a project has no room for.

    Args:
        message: What it may keep.
    """
    return ApiError(403, message, type="insufficient_quota", param="file", code="storage_quota_exceeded")


def require_job_room(session: Session, caller: "Caller") -> None:
    """Refuse a fine-tuning job where a project has as many unfinished ones as it may.

    Args:
        session: Of `Database.writing()`, in which the job's row is added too.
        caller: Whose project it is.

    Raises:
        ApiError: 429 `rate_limit_exceeded`, which OpenAI's libraries are told not to repeat at once.
    """
    project = _lock_project(session, caller.project_id)
    if project.max_unfinished_jobs is None:
        return
    unfinished = count_unfinished_jobs(session, project.id)
    if unfinished >= project.max_unfinished_jobs:
        message = (
            "This fine-tune request has been rate-limited. Your project has reached the maximum of "
            f"{project.max_unfinished_jobs} active requests ({unfinished} unfinished)."
        )
        headers = {"x-should-retry": "false", "retry-after": str(JOB_SECONDS)}
        raise ApiError(429, message, code="rate_limit_exceeded", headers=headers)


def say_seconds(seconds: float) -> str:
    """A duration as the hosted headers give it, such as `6ms`, `8.64s` or `1m30s`."""
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 100) / 100, 60)
    return f"{int(minutes)}m{math.ceil(rest)}s" if minutes else f"{rest:.4g}s"


def _lock_project(session: Session, project_id: str) -> Project:
    """The project's row, which on PostgreSQL only one transaction holds at a time; SQLite has one writer anyway."""
    query = select(Project).where(Project.id == project_id).with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one()


def _capacity(caller: "Caller", kind: str) -> int | None:
    quotas = caller.quotas
    return quotas.max_requests_per_minute if kind == "requests" else quotas.max_tokens_per_minute
