"""Tuning jobs as Google's clients send and see them.

Reference: cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/projects.locations.tuningJobs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic.alias_generators import to_camel

from kivnun.database.tables import FineTuningJob, VertexJob
from kivnun.server.bodies import read_few_errors
from kivnun.server.vertex.errors import FAILED_CODE

SIZES = {"ONE": 1, "TWO": 2, "FOUR": 4, "EIGHT": 8, "SIXTEEN": 16, "THIRTY_TWO": 32}
STATES = {
    "validating_files": "JOB_STATE_PENDING",
    "queued": "JOB_STATE_QUEUED",
    "running": "JOB_STATE_RUNNING",
    "paused": "JOB_STATE_PAUSED",
    "succeeded": "JOB_STATE_SUCCEEDED",
    "failed": "JOB_STATE_FAILED",
    "cancelled": "JOB_STATE_CANCELLED",
}
ENDED = ("succeeded", "failed", "cancelled")
# Room for the steps of a job's checkpoints in the number of an endpoint.
STEPS = 10**9
MAX_SUFFIX = 64
# What is written here for the words of Google's earlier libraries and of other trainers, in small letters.
INSTEAD = {
    "trainsteps": "epochCount, the number of passes over all rows",
    "steps": "epochCount, the number of passes over all rows",
    "epochs": "epochCount",
    "numepochs": "epochCount",
    "nepochs": "epochCount",
    "learningrate": "learningRateMultiplier, a factor of the rate that fits the model (1 if it is not given)",
    "rank": "adapterSize, such as ADAPTER_SIZE_FOUR",
    "adapterrank": "adapterSize, such as ADAPTER_SIZE_FOUR",
}
Uri = Annotated[str, Field(min_length=1, max_length=2048)]


def _read_whole(value: object) -> object:
    """Whole numbers of 64 bits are texts in Google's JSON."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else value


Whole = Annotated[int, BeforeValidator(_read_whole)]


class GoogleBody(BaseModel):
    """What a client sends: names in either of Google's spellings, and no unknown ones."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)

    @model_validator(mode="wrap")
    @classmethod
    def tell_few_errors(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """As `RequestBody` does."""
        return read_few_errors(value, read)


class HyperParameters(GoogleBody):
    """Numbers of a supervised job; what is not given is chosen by the rows."""

    @model_validator(mode="before")
    @classmethod
    def say_what_to_write(cls, value: object) -> object:
        """Refuse numbers of other libraries and of earlier ones, such as `train_steps`, with what stands for them."""
        names: list[object] = list(cast("dict[object, object]", value)) if isinstance(value, dict) else []
        known = {*cls.model_fields, *map(to_camel, cls.model_fields)}
        for name in names:
            if isinstance(name, str) and name not in known:
                own = ", ".join(to_camel(field) for field in cls.model_fields)
                wanted = INSTEAD.get(name.replace("_", "").lower(), f"one of {own}")
                raise ValueError(f"{name[:100]} is no number of a tuning job here: write {wanted}")
        return value

    epoch_count: Annotated[Whole, Field(ge=1, le=50)] | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    adapter_size: (
        Literal[
            "ADAPTER_SIZE_UNSPECIFIED",
            "ADAPTER_SIZE_ONE",
            "ADAPTER_SIZE_TWO",
            "ADAPTER_SIZE_FOUR",
            "ADAPTER_SIZE_EIGHT",
            "ADAPTER_SIZE_SIXTEEN",
            "ADAPTER_SIZE_THIRTY_TWO",
        ]
        | None
    ) = None
    batch_size: Annotated[Whole, Field(ge=1, le=256)] | None = None

    @property
    def rank(self) -> int | None:
        """The rank of the adapter; None for the usual one."""
        return SIZES.get((self.adapter_size or "").removeprefix("ADAPTER_SIZE_"))


class PreferenceHyperParameters(HyperParameters):
    """Numbers of a job that learns from preferences."""

    beta: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None


class TuningSpec(GoogleBody):
    """What every kind of tuning has."""

    training_dataset_uri: Uri
    validation_dataset_uri: Uri | None = None
    export_last_checkpoint_only: bool = False


class SupervisedTuningSpec(TuningSpec):
    """Answers are learnt."""

    hyper_parameters: HyperParameters = HyperParameters()
    tuning_mode: Literal["TUNING_MODE_UNSPECIFIED", "TUNING_MODE_PEFT_ADAPTER"] = "TUNING_MODE_UNSPECIFIED"


class PreferenceOptimizationSpec(TuningSpec):
    """The better one of two answers is learnt."""

    hyper_parameters: PreferenceHyperParameters = PreferenceHyperParameters()


class CreateTuningJob(GoogleBody):
    """A job that is asked for."""

    base_model: Annotated[str, Field(min_length=1, max_length=256)]
    supervised_tuning_spec: SupervisedTuningSpec | None = None
    preference_optimization_spec: PreferenceOptimizationSpec | None = None
    tuned_model_display_name: Annotated[str, Field(max_length=128)] | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    labels: Annotated[dict[str, str], Field(max_length=64)] | None = None

    @property
    def spec(self) -> SupervisedTuningSpec | PreferenceOptimizationSpec | None:
        """The one kind of tuning that is asked for; None where it is none, or more."""
        given = [each for each in (self.supervised_tuning_spec, self.preference_optimization_spec) if each is not None]
        return given[0] if len(given) == 1 else None

    @property
    def model_name(self) -> str:
        """The base model without the address that Google's clients may put before it."""
        return re.sub(r"^(projects/[^/]+/locations/[^/]+/)?publishers/google/models/", "", self.base_model)

    @property
    def suffix(self) -> str | None:
        """The display name as a part of the tuned model's name."""
        kept = re.sub(r"[^A-Za-z0-9_-]+", "-", self.tuned_model_display_name or "")[:MAX_SUFFIX]
        return kept.strip("-") or None

    def hyperparameters(self) -> dict[str, Any]:
        """The numbers in the words of a fine-tuning job; what is not given is left out."""
        given = self.spec.hyper_parameters if self.spec is not None else HyperParameters()
        numbers = {
            "n_epochs": given.epoch_count,
            "learning_rate_multiplier": given.learning_rate_multiplier,
            "batch_size": given.batch_size,
            "beta": given.beta if isinstance(given, PreferenceHyperParameters) else None,
        }
        return {name: value for name, value in numbers.items() if value is not None}


@dataclass(frozen=True)
class TuningJob:
    """A tuning job with all that is told of it.

    Attributes:
        vertex: Its row as the Vertex face knows it.
        job: The fine-tuning job.
        steps: The optimizer steps of its checkpoints, first to last.
    """

    vertex: VertexJob
    job: FineTuningJob
    steps: Sequence[int] = ()

    @property
    def parent(self) -> str:
        """The project and place that it was asked for in."""
        return f"projects/{self.vertex.cloud_project}/locations/{self.vertex.location}"

    def to_json(self) -> dict[str, Any]:
        """As clients see it: what they asked for, and what became of it."""
        job = self.job
        told: dict[str, Any] = {
            **self.vertex.asked,
            "name": f"{self.parent}/tuningJobs/{self.vertex.number}",
            "state": self._state(),
            "createTime": _say_time(job.created_at),
            "updateTime": _say_time(job.finished_at or job.started_at or job.created_at),
        }
        for name, at in (("startTime", job.started_at), ("endTime", job.finished_at)):
            told |= {name: _say_time(at)} if at is not None else {}
        if job.status == "failed":
            told["error"] = {"code": FAILED_CODE, "message": (job.error or {}).get("message", "The job failed.")}
        if job.fine_tuned_model is not None:
            told["tunedModel"] = self._tuned_model()
        return told

    def _state(self) -> str:
        if self.job.wanted == "cancel" and self.job.status not in ENDED:
            return "JOB_STATE_CANCELLING"
        return STATES[self.job.status]

    def _tuned_model(self) -> dict[str, Any]:
        spec = self.vertex.asked.get("supervisedTuningSpec") or self.vertex.asked["preferenceOptimizationSpec"]
        steps = self.steps[-1:] if spec.get("exportLastCheckpointOnly") else self.steps
        epochs = int(self.job.hyperparameters["n_epochs"])
        checkpoints = [
            {
                "checkpointId": str(number),
                "epoch": str(round(step * epochs / self.steps[-1])),
                "step": str(step),
                "endpoint": self._endpoint(step),
            }
            for number, step in enumerate(steps, start=1)
        ]
        model = f"{self.parent}/models/{self.vertex.number}@1"
        return {"model": model, "endpoint": self._endpoint(0), "checkpoints": checkpoints}

    def _endpoint(self, step: int) -> str:
        return f"{self.parent}/endpoints/{self.vertex.number * STEPS + step}"


def _say_time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
