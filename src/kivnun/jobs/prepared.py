"""What a worker asks of the process that prepares a job, and what it is told: two files in the job's folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kivnun.jobs.job_error import JobError
from kivnun.runs.atomic import write_atomic

ASKED_NAME = "job.json"
ANSWER_NAME = "prepared.json"


@dataclass(frozen=True)
class Asked:
    """A job as this process needs it; paths are absolute.

    Attributes:
        id: Of the job.
        model: As the client named it.
        base_model: What it stands for.
        seed: Of the training.
        asked: Method and hyper-parameters as the client gave them.
        integrations: Trackers.
        training: The training file.
        validation: The validation file.
        strict: Whether files are refused that the hosted service refuses.
    """

    id: str
    model: str
    base_model: str
    seed: int
    asked: dict[str, Any]
    integrations: list[Any]
    training: str
    validation: str | None
    strict: bool


@dataclass(frozen=True)
class Note:
    """Something about a job's files that its events say.

    Attributes:
        level: info or warn.
        message: In words.
        data: For programs.
    """

    level: str
    message: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A job that may train.

    Attributes:
        hyperparameters: As numbers.
        memory_bytes: What it needs.
        least_bytes: What it cannot do without, however few tokens are computed at once.
        notes: What its events say.
        environment: What its run finds in its environment.
    """

    hyperparameters: dict[str, int | float]
    memory_bytes: int
    least_bytes: int
    notes: tuple[Note, ...]
    environment: dict[str, str]


def write_asked(asked: Asked, folder: Path) -> None:
    """Put down what is asked, and remove an earlier answer.

    Args:
        asked: The job.
        folder: The job's.
    """
    (folder / ANSWER_NAME).unlink(missing_ok=True)
    write_atomic(folder / ASKED_NAME, json.dumps(asdict(asked)))


def write_answer(answer: Prepared | JobError, folder: Path) -> None:
    """Put down what was found out.

    Args:
        answer: The job that may train, or why it may not.
        folder: The job's.
    """
    kind = "error" if isinstance(answer, JobError) else "prepared"
    write_atomic(folder / ANSWER_NAME, json.dumps({kind: asdict(answer)}))


def read_asked(folder: Path) -> Asked:
    """What is asked.

    Args:
        folder: The job's.
    """
    return Asked(**json.loads((folder / ASKED_NAME).read_bytes()))


def read_answer(folder: Path) -> Prepared | JobError | None:
    """What was found out; None where nothing is there.

    Args:
        folder: The job's.
    """
    try:
        answer: Mapping[str, Any] = json.loads((folder / ANSWER_NAME).read_bytes())
    except FileNotFoundError:
        return None
    if "error" in answer:
        error = answer["error"]
        # An answer of before an update has no notes.
        return JobError(**{**error, "problems": tuple(error["problems"]), "notes": tuple(error.get("notes", ()))})
    prepared = answer["prepared"]
    return Prepared(**{**prepared, "notes": tuple(Note(**note) for note in prepared["notes"])})
