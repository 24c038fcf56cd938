"""How jobs end: each in one transaction, so that a kill leaves a job that has not ended or one that has, whole."""

import csv
import hashlib
import io
import math
import shutil
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.projects import FINISHED
from kivnun.database.tables import File, FineTuningJob, TunedModel
from kivnun.jobs.follow import organization_name
from kivnun.jobs.job_error import JobError
from kivnun.jobs.job_files import COPY_NAMES
from kivnun.jobs.naming import model_name, result_file_id
from kivnun.jobs.queue import CRASH, MOST_ATTEMPTS, add_event, held, release, settle
from kivnun.jobs.work import Work
from kivnun.runs.atomic import write_atomic
from kivnun.runs.manifest import read_manifest

RESULT_NAME = "step_metrics.csv"
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
# As `training.checkpoint` calls it, which a worker does not import: torch would take half a gigabyte of each.
CHECKPOINTS = "checkpoints"
FAILED = "The job failed"
NAN = float("nan")


@dataclass
class Numbers:
    """Every step of a run, a few bytes each; place 0 is step 1.

    Attributes:
        loss: Training losses.
        accuracy: Training accuracies by token, NaN where none was measured.
        num_tokens: Tokens trained on.
        validations: Loss and accuracy by step.
        best_step: Whose weights are kept; None for the last one's.
    """

    loss: "array[float]" = field(default_factory=lambda: array("d"))
    accuracy: "array[float]" = field(default_factory=lambda: array("d"))
    num_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    validations: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    best_step: int | None = None

    @property
    def kept_step(self) -> int:
        """The step whose weights are the model."""
        return len(self.loss) if self.best_step is None else self.best_step

    @property
    def kept_loss(self) -> float | None:
        """Its loss over the validation rows; None where none was measured."""
        loss, _ = self.validations.get(self.kept_step, (NAN, NAN))
        return loss if math.isfinite(loss) else None

    def take(self, event: dict[str, object]) -> None:
        """Add a line of the log; a step that is done again takes the place of the first time."""
        kind, step = event.get("event"), event.get("step")
        if kind == "fit_started":
            start = event.get("from_step")
            self._cut(start if isinstance(start, int) else 0)
        elif kind == "step" and isinstance(step, int):
            self._cut(step - 1)
            self._fill(step - 1)
            self.loss.append(_number(event, "loss"))
            self.accuracy.append(_number(event, "token_accuracy"))
            tokens = event.get("num_tokens")
            self.num_tokens.append(tokens if isinstance(tokens, int) else 0)
        elif kind == "validation" and isinstance(step, int):
            self.validations[step] = (_number(event, "loss"), _number(event, "token_accuracy"))
            if event.get("best") is True:
                self.best_step = step

    def _cut(self, length: int) -> None:
        for column in (self.loss, self.accuracy, self.num_tokens):
            del column[length:]

    def _fill(self, length: int) -> None:
        """Steps whose lines are lost, as when the power fails before they reach the disk, leave their rows empty."""
        missing = range(len(self.loss), length)
        self.loss.extend(NAN for _ in missing)
        self.accuracy.extend(NAN for _ in missing)
        self.num_tokens.extend(0 for _ in missing)

    def rows(self) -> Iterator[list[object]]:
        """The rows of the CSV file."""
        for step, (loss, accuracy) in enumerate(zip(self.loss, self.accuracy, strict=True), start=1):
            measured = self.validations.get(step, (NAN, NAN))
            yield [step, *(_shown(value) for value in (loss, accuracy, *measured))]

    def to_csv(self) -> bytes:
        """The file, as plain CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(self.rows())
        return text.getvalue().encode()


def read_numbers(path: Path) -> Numbers:
    """What a run's log says of its steps.

    Args:
        path: The log.
    """
    numbers = Numbers()
    with path.open("rb") as file:
        for line in file:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict):
                numbers.take(event)
    return numbers


def succeed(work: Work, job_id: str) -> None:
    """End a job whose run has finished: its model, its numbers and its status appear at once.

    Args:
        work: Of the worker that holds the lease.
        job_id: The job.

    Raises:
        LeaseLostError: Somebody else works at the job now.
        UserError: `run-missing`, if there is no model.
    """
    run_dir = work.folder(job_id) / "run"
    read_manifest(run_dir / "model")
    numbers = read_numbers(run_dir / "events.jsonl")
    content = numbers.to_csv()
    file_id = result_file_id(job_id)
    write_atomic(work.file(file_id), content)
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        if job.wanted == "cancel":
            settle(session, job)
            work.file(file_id).unlink()
            return
        now = int(time.time())
        _add_result_file(session, job, content, now)
        job.fine_tuned_model = _add_model(session, job, now)
        job.result_files = [file_id]
        job.trained_tokens = sum(numbers.num_tokens)
        _end(job, "succeeded", now)
        data = {"step": numbers.kept_step, "num_steps": len(numbers.loss), "valid_loss": numbers.kept_loss}
        add_event(session, job.id, "model", f"New fine-tuned model created: {job.fine_tuned_model}", data=data)
        if numbers.kept_step != len(numbers.loss):
            # The hosted service keeps the last step: whoever comes from there must be told.
            said = f"The model is that of step {numbers.kept_step} of {len(numbers.loss)}, which was best in validation"
            add_event(session, job.id, "kept step", said, data=data)
        add_event(session, job.id, "completed", "The job has successfully completed")
    work.log("job_succeeded", {"job": job_id})


def fail(work: Work, job_id: str, error: JobError) -> None:
    """End a job that cannot be done.

    Args:
        work: Of the worker that holds the lease.
        job_id: The job.
        error: Why.

    Raises:
        LeaseLostError: Somebody else works at the job now.
    """
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        if job.wanted == "cancel":
            settle(session, job)
            return
        error = error.hide(work.data_dir, job.base_model).call(_names_of_files(job))
        job.error = dict(error.to_json())
        _end(job, "failed", int(time.time()))
        data = {"error_code": error.code, "problems": list(error.problems)}
        for place, note in enumerate(error.notes):
            add_event(session, job.id, f"note:{place}", note, level="warn")
        said = error.message if error.message.startswith(FAILED) else f"{FAILED}: {error.message}"
        add_event(session, job.id, "failed", said, level="error", data=data)
    work.log("job_failed", {"job": job_id, "code": error.code})


def give_up_or_retry(work: Work, job_id: str, error: JobError) -> int:
    """Count a crash: the job waits for another attempt, or fails where there were too many without any progress.

    Args:
        work: Of the worker that holds the lease.
        job_id: The job.
        error: What it fails with.

    Returns:
        Its attempts, by which a crash counts more than a lost worker.

    Raises:
        LeaseLostError: Somebody else works at the job now.
    """
    with work.database.writing() as session:
        job = held(session, job_id, str(work.owner))
        job.attempts += CRASH
        attempts = job.attempts
        if attempts < MOST_ATTEMPTS:
            settle(session, job)
    if attempts >= MOST_ATTEMPTS:
        fail(work, job_id, error)
    return attempts


def remove_checkpoints(work: Work, job_id: str) -> None:
    """Remove what only a run that goes on needs; models of epochs stay.

    Args:
        work: Of the worker.
        job_id: A job that has ended.
    """
    shutil.rmtree(work.folder(job_id) / "run" / CHECKPOINTS, ignore_errors=True)


def remove_left_checkpoints(work: Work) -> None:
    """Remove the checkpoints of jobs that ended while nobody could: paused and then cancelled, or cut short by a kill.

    Args:
        work: Of the worker.
    """
    folders = list((work.data_dir / "jobs").glob(f"*/run/{CHECKPOINTS}"))
    with work.database.reading() as session:
        for folder in folders:
            job_id = folder.parent.parent.name
            status = session.scalar(select(FineTuningJob.status).where(FineTuningJob.id == job_id))
            if status in FINISHED:
                remove_checkpoints(work, job_id)


def _names_of_files(job: FineTuningJob) -> dict[str, str]:
    """The job's own copies by the ids of the files that its client sent."""
    ids = {"train": job.training_file, "validation": job.validation_file}
    return {name: ids[split] or name for split, name in COPY_NAMES.items()}


def _end(job: FineTuningJob, status: str, now: int) -> None:
    job.status, job.wanted, job.finished_at, job.estimated_finish = status, "run", now, None
    release(job)


def _add_result_file(session: Session, job: FineTuningJob, content: bytes, now: int) -> None:
    session.add(
        File(
            id=result_file_id(job.id),
            project_id=job.project_id,
            filename=RESULT_NAME,
            purpose="fine-tune-results",
            num_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            status="processed",
            created_at=now,
        )
    )


def _add_model(session: Session, job: FineTuningJob, now: int) -> str:
    organization = organization_name(session, job)
    name = model_name(job, organization)
    if session.scalar(select(TunedModel.number).where(TunedModel.name == name)) is None:
        session.add(
            TunedModel(
                name=name,
                project_id=job.project_id,
                organization_name=organization,
                base_model=job.base_model,
                folder=f"jobs/{job.id}/run/model",
                job_id=job.id,
                checkpoint_step=None,
                created_at=now,
            )
        )
    return name


def _number(event: dict[str, object], name: str) -> float:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) else NAN


def _shown(value: float) -> object:
    # CSV knows no missing numbers but empty ones; a loss that is not finite is one.
    return "" if math.isnan(value) else round(value, 5)
