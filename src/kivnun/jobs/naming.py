"""Names that follow from a job: the same whenever they are asked for, so that nothing need be kept to make them."""

import hashlib

from kivnun.database.identifiers import LENGTH, SIGNS
from kivnun.database.tables import FineTuningJob

_MODEL_SIGNS = 8


def model_name(job: FineTuningJob, organization_name: str) -> str:
    """The name of the model that a job makes: `ft:BASE:ORGANIZATION:SUFFIX:SIGNS`.

    Args:
        job: The job.
        organization_name: Whose project it is.
    """
    signs = derive_signs(f"model {job.id}", _MODEL_SIGNS)
    # A model that is tuned further keeps the name of the base that it began with.
    base = job.model.removeprefix("ft:").partition(":")[0] if job.model.startswith("ft:") else job.model
    return f"ft:{base}:{organization_name}:{job.suffix or ''}:{signs}"


def checkpoint_name(model: str, step: int) -> str:
    """The name of a checkpoint of a model.

    Args:
        model: The model's name.
        step: The optimizer step.
    """
    return f"{model}:ckpt-step-{step}"


def result_file_id(job_id: str) -> str:
    """The id of the file with a job's numbers."""
    return f"file-{derive_signs(f'results {job_id}', LENGTH)}"


def derive_signs(text: str, length: int) -> str:
    """Letters and digits that look random and follow from a text.

    Args:
        text: The text.
        length: How many.
    """
    number = int.from_bytes(hashlib.sha512(text.encode()).digest())
    signs = ""
    for _ in range(length):
        number, place = divmod(number, len(SIGNS))
        signs += SIGNS[place]
    return signs
