"""One job, from where it stands to where it can go while its lease is held.

    validating_files -> queued -> running -> succeeded
                                          -> paused, cancelled, or queued again where the server stops
                                          -> failed, alone and with its reason

Every status is left in one transaction, and what is computed before it can be computed again: whoever takes over a job
at any moment brings it to the same end.
"""

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import select

from kivnun.database.tables import FineTuningJob
from kivnun.jobs import failures, leash
from kivnun.jobs.finishing import fail, give_up_or_retry, remove_checkpoints, succeed
from kivnun.jobs.follow import Follower
from kivnun.jobs.job_error import JobError
from kivnun.jobs.prepared import Asked, Prepared, read_answer, write_asked
from kivnun.jobs.private_paths import without_paths
from kivnun.jobs.queue import CRASH, MOST_ATTEMPTS, add_event, held, settle
from kivnun.jobs.work import Ended, Work, attend, wait_while
from kivnun.runs.ending import is_held
from kivnun.runs.store import EVENTS_NAME, RECIPE_NAME

LOG_NAME = "log.txt"
LOCK_SECONDS = 20.0
STOP_SECONDS = 2.0
"""Whoever stops a whole service sends a signal to each of its processes, and perhaps to the worker last."""
_INTERRUPTED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)
# -P: the working folder, which holds what clients sent, is no place to import from.
_PYTHON = ("-P", "-m")


def work_at(
    work: Work,
    job_id: str,
    *,
    environment: Mapping[str, str] | None = None,
    let_device_go: Callable[[], None] = lambda: None,
) -> None:
    """Bring a job on whose lease this worker holds, and give the lease back.

    Args:
        work: Of the worker.
        job_id: The job.
        environment: What its processes find in theirs, such as the device that is theirs.
        let_device_go: Called when the job does not train now, so that the device is another worker's meanwhile.

    Raises:
        LeaseLostError: Somebody else works at the job now; nothing of this worker computes for it any more.
    """
    leash.kill_marked(job_id)
    if not wait_while(lambda: is_held(work.folder(job_id) / "run"), seconds=LOCK_SECONDS):
        # On another machine of a shared folder its former holder still computes: once it knows, it ends.
        return _give_back(work, job_id)
    work.folder(job_id).mkdir(parents=True, exist_ok=True)
    follower = Follower(work.database, job_id, str(work.owner), work.folder(job_id) / "run" / EVENTS_NAME)
    follower.read()
    job = _begin(work, job_id)
    if job is None:
        return None
    if job.status == "running":
        return _train(work, job, follower, environment or {})
    let_device_go()
    return _validate(work, job)


def _begin(work: Work, job_id: str) -> FineTuningJob | None:
    """The job as it should be worked at now; None where nothing is left to do."""
    has_recipe = (work.folder(job_id) / RECIPE_NAME).is_file()
    is_prepared = has_recipe and isinstance(read_answer(work.folder(job_id)), Prepared)
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        attempts = job.attempts
        if job.wanted != "run":
            settle(session, job)
        elif attempts < MOST_ATTEMPTS:
            # Paused between the answer and what `_queue` writes of it, a job has an answer that nobody was told.
            if job.status == "validating_files" or job.memory_bytes is None or not is_prepared:
                job.status = "validating_files"
                files = f"Validating training file: {job.training_file}"
                also = f" and validation file: {job.validation_file}" if job.validation_file else ""
                add_event(session, job.id, "validating", files + also)
            else:
                job.status, job.started_at = "running", job.started_at or int(time.time())
                add_event(session, job.id, "started", "Fine-tuning job started")
            return job
    if job.status == "cancelled":
        remove_checkpoints(work, job_id)
    elif attempts >= MOST_ATTEMPTS and job.wanted == "run":
        fail(work, job_id, failures.lost_too_often())
    return None


def _validate(work: Work, job: FineTuningJob) -> None:
    folder = work.folder(job.id)
    asked = Asked(
        id=job.id,
        model=job.model,
        base_model=job.base_model,
        seed=job.seed,
        asked=job.asked,
        integrations=job.integrations,
        training=str(work.file(job.training_file).resolve()),
        validation=str(work.file(job.validation_file).resolve()) if job.validation_file else None,
        strict=work.strict,
    )
    write_asked(asked, folder)
    process = leash.start(
        (*_PYTHON, "kivnun.jobs.prepare", "."),
        folder=folder,
        log=folder / LOG_NAME,
        mark=job.id,
        niceness=work.niceness,
    )
    ended = attend(work, job.id, process, look=lambda: None)
    answer = read_answer(folder)
    if ended.why and ended.why != "memory":
        _settle(work, job.id)
    elif isinstance(answer, JobError):
        fail(work, job.id, answer)
    elif isinstance(answer, Prepared) and answer.least_bytes > work.room.limit_bytes:
        fail(work, job.id, failures.too_large(work.room.limit_bytes, answer.least_bytes))
    elif isinstance(answer, Prepared):
        _queue(work, job.id, answer)
    else:
        _explain_end(work, job.id, ended, process, None)


def _queue(work: Work, job_id: str, prepared: Prepared) -> None:
    """The files are good: the job waits for its turn, and this worker may take an older one."""
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        job.hyperparameters = dict[str, Any](prepared.hyperparameters)
        job.memory_bytes = min(prepared.memory_bytes, work.room.limit_bytes)
        for place, note in enumerate(prepared.notes):
            message = without_paths(note.message, work.data_dir, job.base_model)
            add_event(session, job.id, f"note:{place}", message, level=note.level, data=note.data)
        add_event(session, job.id, "validated", "Files validated, moving job to queued state")
        job.status, job.attempts = "queued", 0
        settle(session, job)
    work.log("job_queued", {"job": job_id, "memory_bytes": job.memory_bytes})


def _train(work: Work, job: FineTuningJob, follower: Follower, environment: Mapping[str, str]) -> None:
    folder = work.folder(job.id)
    prepared = read_answer(folder)
    trackers = prepared.environment if isinstance(prepared, Prepared) else {}
    work.log("job_running", {"job": job.id, "attempts": job.attempts})
    process = leash.start(
        (*_PYTHON, "kivnun", "run", RECIPE_NAME, "--run-dir", "run"),
        folder=folder,
        log=folder / LOG_NAME,
        mark=job.id,
        niceness=work.niceness,
        environment={**trackers, **environment},
    )
    ended = attend(work, job.id, process, look=follower.read)
    if ended.status == 0:
        succeed(work, job.id)
        remove_checkpoints(work, job.id)
    elif ended.why and ended.why != "memory":
        _settle(work, job.id)
    else:
        _explain_end(work, job.id, ended, process, follower)


def _explain_end(work: Work, job_id: str, ended: Ended, process: leash.Leashed, follower: Follower | None) -> None:
    """A process ended that nobody asked to: it is tried again where that may help, or the job fails."""
    failure = follower.failure if follower is not None else None
    if ended.why == "memory":
        fail(work, job_id, failures.too_large(work.room.limit_bytes))
    elif _is_locked(process, ended) or (ended.status in _INTERRUPTED and _is_told_to_stop(work)):
        _give_back(work, job_id)
    elif ended.status < 0 or ended.status > 128:
        attempts = give_up_or_retry(work, job_id, failures.crashed(ended.status, MOST_ATTEMPTS // CRASH))
        work.log("job_crashed", {"job": job_id, "status": ended.status, "attempts": attempts})
    else:
        fail(work, job_id, failures.explain(failure, process.printed(), work.folder(job_id)))
    if follower is not None:
        _clean_ended(work, job_id)


def _is_locked(process: leash.Leashed, ended: Ended) -> bool:
    """Whether the run could not begin because what is left of an earlier one had not ended yet."""
    code, _ = failures.printed_error(process.printed())
    return ended.status > 0 and code == failures.RUN_LOCKED


def _is_told_to_stop(work: Work) -> bool:
    """Whether the worker should end too; a process that alone was asked to may be one that takes too much memory."""
    return wait_while(lambda: not work.is_stopping(), seconds=STOP_SECONDS)


def _settle(work: Work, job_id: str) -> None:
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        settle(session, job)
    work.log(f"job_{job.status}", {"job": job_id})
    _clean_ended(work, job_id)


def _give_back(work: Work, job_id: str) -> None:
    with work.database.writing() as session:
        settle(session, held(session, job_id, str(work.owner)))


def _clean_ended(work: Work, job_id: str) -> None:
    with work.database.reading() as session:
        status = session.scalar(select(FineTuningJob.status).where(FineTuningJob.id == job_id))
    if status in ("failed", "cancelled"):
        remove_checkpoints(work, job_id)
