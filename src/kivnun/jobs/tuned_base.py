"""Jobs that go on from a tuned model: where that model lies, and where the base that is made of it will.

Such a job's `base_model` is the folder of the tuned model in the data folder, `jobs/ID/run/model`. What it learns lies
upon that model merged into one, in the job's own folder, so that the other may be deleted.
"""

import re
from pathlib import Path

MERGED_NAME = "base"
_TUNED = re.compile(r"jobs/(ftjob-[a-zA-Z0-9]+)/.+", re.ASCII)


def is_tuned(base_model: str) -> bool:
    """Whether a job's base model is a tuned one.

    Args:
        base_model: The job's.
    """
    return _TUNED.fullmatch(base_model) is not None


def job_of(base_model: str) -> str:
    """The job that made a tuned model.

    Args:
        base_model: Of a job that goes on from it.
    """
    found = _TUNED.fullmatch(base_model)
    if found is None:
        raise AssertionError(f"{base_model!r} is no folder of a tuned model")
    return found[1]


def serving_base(base_model: str, job_id: str, data_dir: Path) -> str | None:
    """The folder that a job's adapter lies upon, where that is no base model of the server's but a merged one.

    Args:
        base_model: The job's.
        job_id: The job.
        data_dir: Of the server.
    """
    return str(data_dir / "jobs" / job_id / MERGED_NAME) if is_tuned(base_model) else None
