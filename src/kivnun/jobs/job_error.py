"""Why a job failed, in the three fields that clients of the API know: code, message and the parameter to blame."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kivnun.errors import UserError
from kivnun.jobs.private_paths import without_paths

TRAINING_FILE, VALIDATION_FILE = "training_file", "validation_file"
INVALID_FORMAT = "invalid_file_format"
TOO_FEW = "invalid_n_examples"
# What a run refuses about its rows; every other code has nothing to do with a file.
_OF_ROWS = frozenset(
    {
        "answer-cut",
        "data-check",
        "data-empty",
        "data-encoding",
        "data-field",
        "data-format",
        "data-malformed",
        "messages-invalid",
        "nothing-to-learn",
        "preference-invalid",
        "template-field",
    }
)
_OF_MODEL = frozenset({"model-missing", "model-invalid"})
CODES = {
    "disk-full": "insufficient_storage",
    "loss-not-finite": "training_diverged",
    "memory-full": "out_of_memory",
    **dict.fromkeys(_OF_ROWS, INVALID_FORMAT),
    **dict.fromkeys(_OF_MODEL, "model_not_available"),
}


@dataclass(frozen=True)
class JobError:
    """Why a job failed.

    Attributes:
        code: For programs.
        message: For people, in one sentence or two.
        param: The parameter of the job that is to blame; None for none.
        problems: The lines of a file that are wrong, one text each; for an event, since the error has no room for them.
        notes: What was done to the files before, one text each; for events of their own.
    """

    code: str
    message: str
    param: str | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def hide(self, *folders: Path | str) -> "JobError":
        """The same without paths of the server.

        Args:
            *folders: Of the server.
        """
        return self._map(lambda text: without_paths(text, *folders))

    def call(self, names: Mapping[str, str]) -> "JobError":
        """The same with other names for files, such as those that their owner knows.

        Args:
            names: By what they are called here.
        """

        def rename(text: str) -> str:
            for here, name in names.items():
                text = text.replace(here, name)
            return text

        return self._map(rename)

    def _map(self, change: Callable[[str], str]) -> "JobError":
        problems, notes = (tuple(change(text) for text in texts) for texts in (self.problems, self.notes))
        return replace(self, message=change(self.message), problems=problems, notes=notes)

    def to_json(self) -> dict[str, str | None]:
        """The `error` of a job."""
        return {"code": self.code, "message": self.message, "param": self.param}


def invalid_n_examples(num_rows: int, minimum: int, *, param: str = TRAINING_FILE) -> JobError:
    """Too few rows, in the hosted service's own words.

    Args:
        num_rows: How many there are.
        minimum: How many there must be.
        param: The file.
    """
    name = param.replace("_", " ").capitalize()
    return JobError(TOO_FEW, f"{name} has {num_rows} example(s), but must have at least {minimum} examples", param)


def describe_failure(code: str, problem: str, details: Sequence[str] = (), *, hint: str = "") -> JobError:
    """What a run's own error, or the error event that it left, says to a client of the API.

    Args:
        code: One of `kivnun.errors.CODES`, or anything else for a fault of ours.
        problem: What was wrong.
        details: Further lines.
        hint: What mends it.
    """
    param = TRAINING_FILE if code in _OF_ROWS else "model" if code in _OF_MODEL else None
    message = f"{problem}. {hint[:1].upper()}{hint[1:]}." if hint else problem
    return JobError(CODES.get(code, code.replace("-", "_")), message, param, tuple(details))


def from_user_error(error: UserError, *folders: Path | str) -> JobError:
    """What an error of Kivnun's says to a client of the API.

    Args:
        error: The error.
        *folders: Of the server, which its clients have no business to know.
    """
    return describe_failure(error.code, error.problem, error.details, hint=error.hint).hide(*folders)
