"""A worker: takes one job after another, as long as it is not asked to stop."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from kivnun.database.open import Database
from kivnun.database.tables import FineTuningJob
from kivnun.jobs import failures
from kivnun.jobs.devices import take_device
from kivnun.jobs.finishing import give_up_or_retry, remove_left_checkpoints
from kivnun.jobs.leash import NICENESS
from kivnun.jobs.memory import Room
from kivnun.jobs.one_job import work_at
from kivnun.jobs.owner import Owner, is_gone
from kivnun.jobs.queue import LeaseLostError, Lessee, has_work, lease_next
from kivnun.jobs.work import Work

IDLE_SECONDS = 0.3
TROUBLED_SECONDS = 2.0
TIDY_SECONDS = 300.0
LOG_NAME = "workers.jsonl"
MOST_LOG_BYTES = 64 * 2**20


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker works.

    Attributes:
        database: Where jobs are.
        data_dir: The server's data folder.
        owner: This process.
        room: The memory of this machine.
        gpus: Its devices; each for one job at a time.
        strict: Whether files are refused that the hosted service refuses.
        niceness: How far jobs stand back behind other programs.
    """

    database: Database
    data_dir: Path
    owner: Owner
    room: Room
    gpus: Sequence[str] = ()
    strict: bool = False
    niceness: int = NICENESS


def run_worker(settings: WorkerSettings, *, is_stopping: Callable[[], bool], is_once: bool = False) -> None:
    """Take jobs until asked to stop.

    Args:
        settings: How.
        is_stopping: Asked several times a second; a job that runs is saved and given back.
        is_once: End when there is nothing to do now.
    """
    log = _Log(settings.data_dir / "logs" / LOG_NAME, str(settings.owner))
    log("worker_started", {"memory_bytes": settings.room.limit_bytes, "gpus": list(settings.gpus)})
    work = Work(
        settings.database,
        settings.data_dir,
        settings.owner,
        settings.room,
        strict=settings.strict,
        is_stopping=is_stopping,
        log=log,
        niceness=settings.niceness,
    )
    next_tidy = 0.0
    while not is_stopping():
        try:
            if time.monotonic() >= next_tidy:
                remove_left_checkpoints(work)
                next_tidy = time.monotonic() + TIDY_SECONDS
            did_something = _take_one(work, settings.gpus)
        except SQLAlchemyError as error:
            # A database that restarts comes back; the lease that is still held ends by itself.
            log("database_failed", {"error": type(error).__name__})
            time.sleep(TROUBLED_SECONDS)
            continue
        if not did_something:
            if is_once:
                break
            time.sleep(IDLE_SECONDS)
    log("worker_stopped", {})


def _take_one(work: Work, gpus: Sequence[str]) -> bool:
    """Work at one job; False if there was none."""
    with work.database.reading() as session:
        if not has_work(session, _lessee(work, work.room.admits)):
            return False
    with ExitStack() as device:
        gpu = device.enter_context(take_device(work.data_dir / "jobs", work.owner.place, gpus))
        has_device = gpu is not None or not gpus

        def admits(job: FineTuningJob, running: Sequence[FineTuningJob]) -> bool:
            return has_device and work.room.admits(job, running)

        with work.database.writing() as session:
            job = lease_next(session, _lessee(work, admits))
        if job is None:
            return False
        work.log("job_leased", {"job": job.id, "status": job.status, "attempts": job.attempts})
        _work_safely(work, job.id, {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}, device.close)
        return True


def _lessee(work: Work, admits: Callable[[FineTuningJob, Sequence[FineTuningJob]], bool]) -> Lessee:
    return Lessee(str(work.owner), lambda name: is_gone(name, work.owner) or name == str(work.owner), admits)


def _work_safely(work: Work, job_id: str, environment: Mapping[str, str], let_device_go: Callable[[], None]) -> None:
    """Work at a job; whatever goes wrong with it does not keep the worker from the next one."""
    try:
        work_at(work, job_id, environment=environment, let_device_go=let_device_go)
    except LeaseLostError:
        work.log("lease_lost", {"job": job_id})
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001
        # The border between jobs: this one has an attempt more, and comes to its end by those.
        work.log("job_broke", {"job": job_id, "error": f"{type(error).__name__}: {error}"})
        with suppress(LeaseLostError):
            give_up_or_retry(work, job_id, failures.worker_failed(error, work.folder(job_id)))
        time.sleep(TROUBLED_SECONDS)


class _Log:
    """One line of JSON for each thing that happens, in a file that all workers share."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": event, "worker": self._owner, **fields}) + "\n"
        with suppress(FileNotFoundError):
            if self._path.stat().st_size > MOST_LOG_BYTES:
                self._path.replace(self._path.with_suffix(".old.jsonl"))
        # Where the disk is full, the job that runs is worth more than a line about it. Short lines that are appended
        # at once are not mixed with those of other processes.
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            file.write(line.encode())
