"""What a client asks of a job, checked against what is there: the model, the files, the method, the trackers."""

import secrets
import time
import unicodedata
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.identifiers import new_id
from kivnun.database.tables import File, FineTuningJob, JobMetadata
from kivnun.jobs.hyperparameters import METHODS, MethodName
from kivnun.jobs.queue import add_event
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError, invalid
from kivnun.server.folders import is_id
from kivnun.server.limits import require_job_room
from kivnun.server.model_names import LIST_MODELS, find_model, guess_model, is_hosted, stand_in
from kivnun.server.service import Service
from kivnun.server.tuning.shapes import MAX_SEED, CreateJob, Hyperparameters, list_hyperparameters
from kivnun.serving.exported import EXPORT_NAME

PURPOSE = "fine-tune"


@dataclass(frozen=True)
class JobWish:
    """A job that can be made.

    Attributes:
        model: As the client named it.
        base_model: What it stands for: `bundled`, a folder or a Hugging Face id.
        training_file: A file of the project.
        validation_file: Another one.
        asked: Method and hyper-parameters, "auto" among them; see `kivnun.jobs.hyperparameters`.
        suffix: Goes into the name of the model.
        seed: Of the training; drawn where the client gives none.
        integrations: Trackers.
        metadata: The client's own words.
        notes: What the first events should warn of.
    """

    model: str
    base_model: str
    training_file: str
    validation_file: str | None
    asked: dict[str, Any]
    suffix: str | None = None
    seed: int | None = None
    integrations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    metadata: dict[str, str] | None = None
    notes: tuple[str, ...] = ()


def read_wish(session: Session, service: Service, caller: Caller, asked: CreateJob) -> JobWish:
    """Check what a request names.

    Args:
        session: Of the transaction that will make the job.
        service: Of the server.
        caller: Whose files and models count.
        asked: The request.

    Raises:
        ApiError: 400, naming the parameter.
    """
    base_model = find_trainable(session, service, caller, asked.model)
    for param in ("training_file", "validation_file"):
        file_id: str | None = getattr(asked, param)
        if file_id is not None:
            require_file(session, caller, file_id, param)
    notes: list[str] = []
    if is_hosted(service.settings, asked.model):
        own = stand_in(service.settings)
        words = f"{asked.model} is not on this machine: {own} is trained in its place"
        notes.append(f"{words} (`kivnun serve --base-model` chooses it)")
    if not service.settings.num_workers:
        notes.append("This server has no workers of its own (`--workers 0`): the job waits until one is started")
    if asked.trainingType is not None:
        notes.append("trainingType chooses among Azure's machines; it has no effect here")
    return JobWish(
        model=asked.model,
        base_model=base_model,
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        asked=_read_method(asked),
        suffix=_read_suffix(asked.suffix),
        seed=asked.seed,
        integrations=_read_integrations(asked),
        metadata=asked.metadata,
        notes=tuple(notes),
    )


def _read_suffix(suffix: str | None) -> str | None:
    """Colons divide a model's name, which is written into addresses, lists and command lines as it is."""
    wrong = [sign for sign in suffix or "" if unicodedata.category(sign)[0] not in "LMN" and sign not in "-_."]
    if wrong:
        shown = f"'{wrong[0]}'" if wrong[0].isprintable() else f"U+{ord(wrong[0]):04X}"
        told = f"Invalid 'suffix': it becomes a part of the model's name and must not hold {shown}."
        raise invalid("suffix", f"{told} Letters of any script, digits, '-', '_' and '.' are allowed.")
    return suffix


def insert_job(session: Session, caller: Caller, wish: JobWish) -> FineTuningJob:
    """Make a job, with its metadata and its first event, in the caller's transaction.

    Args:
        session: Of `Database.writing()`.
        caller: Whose job it is.
        wish: What was checked.

    Raises:
        ApiError: 429, where the project has as many unfinished jobs as it may.
    """
    require_job_room(session, caller)
    seed = wish.seed if wish.seed is not None else secrets.randbelow(MAX_SEED + 1)
    job = FineTuningJob(
        id=new_id("ftjob-"),
        project_id=caller.project_id,
        model=wish.model,
        base_model=wish.base_model,
        training_file=wish.training_file,
        validation_file=wish.validation_file,
        suffix=wish.suffix,
        seed=seed,
        asked=wish.asked,
        hyperparameters=dict(wish.asked["hyperparameters"]),
        integrations=wish.integrations,
        metadata_=wish.metadata,
        status="validating_files",
        wanted="run",
        result_files=[],
        created_at=int(time.time()),
    )
    session.add(job)
    session.flush()
    session.add_all(JobMetadata(job_number=job.number, key=key, value=value) for key, value in _pairs(wish))
    add_event(session, job.id, "created", f"Created fine-tuning job: {job.id}")
    for number, note in enumerate(wish.notes):
        add_event(session, job.id, f"asked:{number}", note, level="warn")
    return job


def find_trainable(session: Session, service: Service, caller: Caller, name: str) -> str:
    """What a recipe calls the base model of a name; of a tuned one, which may be tuned further, its folder.

    Args:
        session: Open for reading.
        service: Of the server.
        caller: Who asks.
        name: As the client calls it.

    Raises:
        ApiError: 400 `model_not_available`, the hosted service's answer to models that cannot be tuned.
    """
    try:
        found = find_model(session, service, caller, name)
    except ApiError as error:
        raise _not_available(name, f".{guess_model(session, service, caller, name)}") from error
    if found.is_tuned and found.address.tuned is not None:
        return found.address.tuned.relative_to(service.settings.data_dir).as_posix()
    folder = Path(found.base_name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        is_export = (folder / EXPORT_NAME).is_file()
        lost = "its weights are not where they were when the server started; whoever runs it must put them back"
        raise _not_available(name, f": {'it is an exported form, which only answers' if is_export else lost}.")
    return found.base_name


def _not_available(name: str, more: str) -> ApiError:
    message = f"Model {name} is not available for fine-tuning or does not exist{more} {LIST_MODELS}"
    return ApiError(400, message, param="model", code="model_not_available")


def require_file(session: Session, caller: Caller, file_id: str, param: str) -> File:
    """A file that a job may read, which stays until the transaction ends.

    Args:
        session: Of `Database.writing()`.
        caller: Whose file it must be.
        file_id: As the client named it.
        param: The parameter that named it.

    Raises:
        ApiError: 400 `invalid_training_file` or `invalid_validation_file`.
    """
    file = None
    if is_id(file_id, "files"):
        query = select(File).where(File.id == file_id, File.project_id == caller.project_id).with_for_update()
        file = session.scalar(query)
    if file is None or (file.expires_at is not None and file.expires_at <= time.time()):
        raise ApiError(400, f"invalid {param}: {file_id}", param=param, code=f"invalid_{param}")
    if file.purpose != PURPOSE:
        message = f"invalid {param}: the purpose of {file_id} is `{file.purpose}`, and must be `{PURPOSE}`"
        raise ApiError(400, message, param=param, code=f"invalid_{param}")
    return file


def _read_method(asked: CreateJob) -> dict[str, Any]:
    """The column `asked` of a job."""
    method = asked.method
    kind = method.type if method is not None else METHODS[0]
    if kind == "reinforcement":
        message = f"The method `reinforcement` is not available on this server. It trains with {' and '.join(METHODS)}."
        raise ApiError(400, message, param="method.type", code="method_not_available")
    section = getattr(method, kind) if method is not None else None
    _refuse_other_sections(asked, kind)
    given: Hyperparameters | None = section.hyperparameters if section is not None else None
    if asked.hyperparameters is not None:
        if given is not None:
            message = "Give hyperparameters in `method` or, as before, beside it, but not in both places."
            raise ApiError(400, message, param="hyperparameters", code="invalid_value")
        given = asked.hyperparameters
    return {"type": kind, "hyperparameters": list_hyperparameters(kind, given)}


def _refuse_other_sections(asked: CreateJob, kind: MethodName) -> None:
    """A section of a method that is not chosen would have no effect."""
    if asked.method is None:
        return
    for name in ("supervised", "dpo", "reinforcement"):
        if name != kind and getattr(asked.method, name) is not None:
            message = f"The method is `{kind}`, so that `method.{name}` has no effect. Leave it out, or choose {name}."
            raise ApiError(400, message, param=f"method.{name}", code="invalid_value")


def _read_integrations(asked: CreateJob) -> list[dict[str, Any]]:
    integrations = asked.integrations or []
    if len(integrations) > 1:
        message = "A job reports to one place at Weights & Biases: give one integration of the type `wandb`."
        raise ApiError(400, message, param="integrations", code="invalid_value")
    if integrations and find_spec("wandb") is None:
        message = "Weights & Biases is not installed on this server: pip install 'kivnun[wandb]', or leave it out."
        raise ApiError(400, message, param="integrations", code="integration_not_available")
    return [each.model_dump(exclude_none=True) for each in integrations]


def _pairs(wish: JobWish) -> list[tuple[str, str]]:
    return list((wish.metadata or {}).items())
