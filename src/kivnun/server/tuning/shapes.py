"""Fine-tuning jobs as clients send and see them: OpenAI's fields, each checked once.

Reference: github.com/openai/openai-openapi, schemas CreateFineTuningJobRequest, FineTuningJob, FineTuningJobEvent,
FineTuningJobCheckpoint and FineTuningCheckpointPermission.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from kivnun.database.tables import CheckpointPermission, FineTuningJob, JobCheckpoint, JobEvent
from kivnun.jobs.hyperparameters import AUTO, NAMES, MethodName
from kivnun.server.bodies import RequestBody

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
MAX_SEED = 2**31 - 1
MAX_INTEGRATIONS = 5

Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
Multiplier = Auto | Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Auto | Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
MetadataValue = Annotated[str, Field(max_length=MAX_VALUE)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_PAIRS)]


class Hyperparameters(RequestBody):
    """Numbers of a supervised job; each is "auto" where it is not given."""

    n_epochs: Epochs = AUTO
    batch_size: BatchSize = AUTO
    learning_rate_multiplier: Multiplier = AUTO


class DpoHyperparameters(Hyperparameters):
    """Numbers of a job that learns from preferences."""

    beta: Beta = AUTO


class Supervised(RequestBody):
    """The section of the method `supervised`."""

    hyperparameters: Hyperparameters | None = None


class Dpo(RequestBody):
    """The section of the method `dpo`."""

    hyperparameters: DpoHyperparameters | None = None


class Method(RequestBody):
    """What is learnt, and with which numbers."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    # Taken as it comes, so that it is refused for what it is.
    reinforcement: dict[str, Any] | None = None


class Wandb(RequestBody):
    """Where numbers go at Weights & Biases."""

    project: Name
    name: Name | None = None
    entity: Name | None = None
    tags: Annotated[list[Name], Field(max_length=64)] | None = None


class Integration(RequestBody):
    """A tracker."""

    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(RequestBody):
    """A job that is asked for."""

    model: Name
    training_file: Name
    validation_file: Name | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Integration], Field(max_length=MAX_INTEGRATIONS)] | None = None
    trainingType: str | None = None  # noqa: N815 - Azure's name; it chooses among Azure's machines
    """Said to have no effect in an event."""


class GrantPermissions(RequestBody):
    """Projects that shall use a checkpoint."""

    project_ids: Annotated[list[Name], Field(min_length=1, max_length=100)]


def list_hyperparameters(method: MethodName, given: Hyperparameters | None) -> dict[str, int | float | str]:
    """All numbers of a method, "auto" where none is given.

    Args:
        method: The method.
        given: What the client gave.
    """
    values = given.model_dump() if given is not None else {}
    return {name: values.get(name, AUTO) for name in NAMES[method]}


def job_object(job: FineTuningJob, organization_id: str) -> dict[str, Any]:
    """A job as clients see it.

    Args:
        job: Of the caller's project.
        organization_id: The caller's.
    """
    method = job.asked["type"]
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "estimated_finish": job.estimated_finish,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": organization_id,
        "status": job.status,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "seed": job.seed,
        "hyperparameters": _shown(job.hyperparameters),
        "method": {"type": method, method: {"hyperparameters": dict(job.hyperparameters)}},
        "integrations": job.integrations,
        "metadata": job.metadata_,
        "error": job.error,
        "user_provided_suffix": job.suffix,
    }


def _shown(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The deprecated field has room for the numbers that it always had."""
    return {name: hyperparameters[name] for name in NAMES["supervised"] if name in hyperparameters}


def event_object(event: JobEvent) -> dict[str, Any]:
    """An event as clients see it.

    Args:
        event: Of a job of the caller's project.
    """
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        # OpenAI's own schema knows no null here.
        "data": event.data or {},
    }


def checkpoint_object(checkpoint: JobCheckpoint) -> dict[str, Any]:
    """A checkpoint as clients see it.

    Args:
        checkpoint: Of a job of the caller's project.
    """
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.model_name,
        "fine_tuning_job_id": checkpoint.job_id,
        "metrics": checkpoint.metrics,
        "step_number": checkpoint.step,
    }


def permission_object(permission: CheckpointPermission) -> dict[str, Any]:
    """A permission as clients see it.

    Args:
        permission: For a checkpoint of the caller's project.
    """
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": permission.created_at,
        "project_id": permission.project_id,
    }
