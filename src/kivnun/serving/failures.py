"""What a client is told when something fails that should not, and what the log is told."""

import traceback
from collections.abc import Callable, Mapping

import torch

from kivnun.errors import UserError

Log = Callable[[str, Mapping[str, object]], None]
"""Takes the name of an event and its fields; no text of a user is ever among them."""


def quiet(_event: str, _fields: Mapping[str, object]) -> None:
    """A log that nobody reads."""


def as_user_error(error: Exception, model: str, log: Log) -> UserError:
    """The error that the client of an answer gets; one that is not theirs is logged with where it happened.

    Args:
        error: What was raised.
        model: Name of the model.
        log: Takes `answer_failed`.
    """
    if isinstance(error, UserError):
        return error
    # Of the message nothing is kept: it may quote what a client sent.
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log("answer_failed", {"model": model, "error": type(error).__name__, "where": where})
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        return UserError(
            "memory-full",
            f"memory ran out while {model} was answering",
            hint="ask for fewer tokens, or ask again when fewer answers are being computed",
        )
    return UserError(
        "answer-failed",
        f"{model} failed while answering ({type(error).__name__}); other answers are not affected",
        hint="ask again; if it fails each time, the server's log says where",
    )
