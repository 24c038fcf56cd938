"""Which fields of a recipe can be searched, and what other tools call them."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from kivnun.recipe.explain import FieldDoc, describe_fields

OTHER_NAMES = {
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "lora_r": "method.rank",
    "lora_rank": "method.rank",
    "lr": "training.learning_rate",
    "lr_scheduler_type": "training.schedule",
    "max_grad_norm": "training.max_grad_norm",
    "n_epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "r": "method.rank",
    "train_batch_size": "training.batch_size",
}
"""What other tools call the fields that are searched most."""

RIVALS = {"training.batch_size": "training.batch_tokens", "training.batch_tokens": "training.batch_size"}
"""Fields that stand in place of each other: where one is searched, the recipe's other one is left out, aloud."""

_MEASURES = "says how trials are measured, which must be the same for all of them"
_SPEED = "changes speed, memory or files, and not what is learnt"
_REASONS = {
    "data": "is part of the rows, which must be the same for all trials, or their values could not be compared",
    "evaluation": "has no effect on training; the search never evaluates on the test rows",
    "name": "has no effect on training",
    "optimization": "has no effect on training",
    "search": "is the search itself",
    "training.best_metric": _MEASURES,
    "training.cache_hidden_states": _SPEED,
    "training.compile": _SPEED,
    "training.gradient_checkpointing": _SPEED,
    "training.keep_checkpoints": _SPEED,
    "training.micro_batch_tokens": _SPEED,
    "training.objective.kind": "decides what the rows are and what the loss means",
    "training.objective.pair_label": "decides what the rows are",
    "training.parallel": _SPEED,
    "training.report_to": _SPEED,
    "training.save_every_seconds": _SPEED,
    "training.save_every_steps": _SPEED,
    "training.validate_every_steps": _MEASURES,
    "training.validation_metrics": _MEASURES,
    "training.validation_rows": _MEASURES,
}
_LOSS_REASONS = {
    "base_model": "may change the tokens, and losses over different tokens cannot be compared; choose another metric",
    "training.objective": "changes what the loss means, so that losses cannot be compared; choose another metric",
}


def find_field(name: str) -> str | None:
    """The dotted field that a name of the search space stands for: itself, another tool's name, or its last part."""
    paths = _paths()
    if name in paths:
        return name
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    places = [path for path in paths if path.rpartition(".")[2] == name and path.startswith(("method.", "training."))]
    return places[0] if len(places) == 1 else None


def suggest_field(name: str) -> str:
    """What an unknown name was probably meant to be, as the end of a sentence."""
    paths = [path for path in _paths() if why_not_searched(path, metric="loss") is None]
    short = {path.rpartition(".")[2]: path for path in paths}
    known = [*paths, *short, *OTHER_NAMES]
    close = get_close_matches(name, known, n=1) or get_close_matches(name.rpartition(".")[2], known, n=1)
    return f"; did you mean `{find_field(close[0]) or short[close[0]]}`?" if close else ""


def why_not_searched(path: str, *, metric: str) -> str | None:
    """Why a field of the recipe cannot be searched, or None where it can."""
    if any(doc.type == "fields" for doc in _docs() if doc.path == path):
        return f"is a group of fields; search one of them, such as `{_first_below(path)}`"
    reason = _reason_at(path, _REASONS)
    return _reason_at(path, _LOSS_REASONS) if reason is None and metric == "loss" else reason


def _reason_at(path: str, reasons: dict[str, str]) -> str | None:
    return next((text for group, text in reasons.items() if path == group or path.startswith(f"{group}.")), None)


def _first_below(path: str) -> str:
    below = [other for other in _paths() if other.startswith(f"{path}.") and not other.endswith(".kind")]
    return below[0] if below else path


@cache
def _docs() -> Sequence[FieldDoc]:
    return describe_fields()


@cache
def _paths() -> Sequence[str]:
    return list(dict.fromkeys(doc.path for doc in _docs()))
