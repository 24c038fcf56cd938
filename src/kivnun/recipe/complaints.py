"""Validation errors in the words of a recipe's writer: the field, what is wrong, and what was probably meant."""

from collections.abc import Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kivnun.recipe.document import Path, Value
from kivnun.recipe.rules import RULES_ERROR
from kivnun.recipe.schema import Recipe

OTHER_NAMES = {
    "dataset": "data.train",
    "lora_alpha": "method.alpha",
    "bf16": "training.precision",
    "eval_steps": "training.validate_every_steps",
    "fp16": "training.precision",
    "load_in_4bit": "method.kind",
    "lora_dropout": "method.dropout",
    "lora_r": "method.rank",
    "lr": "training.learning_rate",
    "lr_scheduler_type": "training.schedule",
    "max_length": "data.max_seq_len",
    "max_seq_length": "data.max_seq_len",
    "model": "base_model",
    "model_name_or_path": "base_model",
    "n_epochs": "training.epochs",
    "min_int4_agreement": "optimization.min_agreement",
    "metric_for_best_model": "training.best_metric",
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "r": "method.rank",
    "sequence_len": "data.max_seq_len",
    "train_file": "data.train",
    "per_device_train_batch_size": "training.batch_size",
    "warmup_steps": "training.warmup_ratio",
}
"""What other tools call our fields."""

OTHER_KINDS = {
    "dora": "{kind: lora, use_dora: true}",
    "houlsby": "{kind: adapter, placement: houlsby}",
    "pfeiffer": "{kind: adapter}",
    "prefix_tuning": "{kind: prefix}",
    "prompt_tuning": "{kind: prompt}",
    "rslora": "{kind: lora, use_rslora: true}",
    "sft": "{kind: supervised}",
}
"""What other tools call our methods and objectives."""

EASIER_WORDS = {
    "dict_type": "input should be a group of fields",
    "model_type": "input should be a group of fields",
    "too_long": "input should have at most {max_length} items",
    "too_short": "input should have at least {min_length} item",
    "tuple_type": "input should be a list",
}
"""What pydantic says in Python's words."""


def describe_errors(error: ValidationError, value: Value) -> list[tuple[Path, str]]:
    """The field and the description of every problem that pydantic found in a recipe's value."""
    described: list[tuple[Path, str]] = []
    details = error.errors(include_url=False)
    for detail in details:
        path = tuple(part for part in detail["loc"] if not _is_tag(part))
        if detail["type"] == RULES_ERROR:
            problems = cast("list[tuple[str, str]]", detail.get("ctx", {}).get("problems", []))
            described += [((*path, *name.split(".")), message) for name, message in problems]
        elif detail["type"] == "too_short" and _has_items(detail["input"]):
            continue  # pydantic also counts the items that it refused already
        else:
            described.append(_describe(detail, path, value))
    return described


def _describe(detail: ErrorDetails, path: Path, value: Value) -> tuple[Path, str]:
    kind, given = detail["type"], cast("Value", detail["input"])
    if kind == "extra_forbidden":
        return path, f"unknown field{_suggest_field(path, value)}"
    if kind == "missing":
        return path, "this field is required"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _describe_variant(path, given, value)
    problem = EASIER_WORDS[kind].format_map(detail.get("ctx", {})) if kind in EASIER_WORDS else _lower(detail["msg"])
    if given is None:
        return path, f"{problem} (got nothing); delete the line to take the default"
    return path, f"{problem} (got {_show(given)}){_suggest_spelling(kind, given)}"


def _describe_variant(path: Path, given: Value, value: Value) -> tuple[Path, str]:
    """A union without a variant for what was given."""
    kinds = [_kind(section) for section in _sections_at(path, value, any_kind=True)]
    names = [kind for kind in kinds if kind is not None]
    if len(names) < 2:  # chosen by shape
        forms = "text or a group of fields" if path == ("base_model",) else _shapes(path)
        return path, f"input should be {forms} (got {_show(given)}){_suggest_spelling('string_type', given)}"
    if not isinstance(given, dict):
        example = given if isinstance(given, str) and given in names else names[-1]
        return path, f"input should be a group of fields such as {{kind: {example}}} (got {_show(given)})"
    if "kind" not in given:
        return (*path, "kind"), f"this field is required: {' or '.join(names)}"
    known = OTHER_KINDS.get(str(given["kind"]).lower().replace("-", "_"))
    if known is not None and known.split()[1].strip(",}") in names:
        return (*path, "kind"), f"there is no kind {_show(given['kind'])}; write {known}"
    close = get_close_matches(str(given["kind"]).lower(), names, n=1)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    return (*path, "kind"), f"input should be {' or '.join(names)} (got {_show(given['kind'])}){meant}"


def _shapes(path: Path) -> str:
    if path[-1:] == ("target_modules",):
        return "all-linear or a list of layer names"
    if path[:2] == ("search", "space"):
        return "a range with the type float, int or choice, such as {type: float, low: 1e-5, high: 1e-2, log: true}"
    return "a file, a list of files, or a mapping of columns to files"


def _suggest_field(path: Path, value: Value) -> str:
    """What an unknown field was probably meant to be."""
    name, parent = str(path[-1]), path[:-1]
    sections = _sections_at(parent, value)
    siblings = [field for section in sections for field in section.model_fields]
    other = OTHER_NAMES.get(name, "")
    if other:
        prefix = ".".join(str(part) for part in parent) + "." if parent else ""
        return f"; did you mean `{other.removeprefix(prefix)}`?"
    close = get_close_matches(name, siblings, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    elsewhere = [dotted for dotted in _all_fields(Recipe, "") if dotted.rpartition(".")[2] == name]
    if elsewhere:
        kinds = [kind for section in sections if (kind := _kind(section)) and _kind_is_choice(parent)]
        if kinds and f"{'.'.join(map(str, parent))}.{name}" in elsewhere:
            return f"; kind {kinds[0]} does not have it"
        return f"; did you mean `{elsewhere[0]}`?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _kind_is_choice(path: Path) -> bool:
    return len([s for s in _sections_at(path, None, any_kind=True) if _kind(s)]) > 1


def _sections_at(path: Path, value: Value, *, any_kind: bool = False) -> list[type[BaseModel]]:
    """The sections that can stand at a path; where `kind` chooses, the one that was chosen."""
    sections: list[type[BaseModel]] = [Recipe]
    for part in path:
        value = value.get(str(part)) if isinstance(value, dict) else None
        found = [
            inner
            for section in sections
            if part in section.model_fields
            for inner in _sections_in(section.model_fields[str(part)].annotation)
        ]
        kind = value.get("kind") if isinstance(value, dict) else None
        chosen = [section for section in found if _kind(section) == kind]
        sections = found if any_kind or not chosen else chosen
    return sections


def _sections_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [section for part in get_args(annotation) for section in _sections_in(part)]
    return []


def _kind(section: type[BaseModel]) -> str | None:
    field = section.model_fields.get("kind")
    return str(field.default) if field is not None else None


def _all_fields(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(field.annotation):
            yield from _all_fields(inner, f"{prefix}{name}.")


def _suggest_spelling(kind: str, given: Value) -> str:
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "; put it in quotes"
    if kind == "tuple_type" and isinstance(given, str):
        return f"; write [{given}]"
    if kind in ("float_type", "int_type", "finite_number") and isinstance(given, str) and _is_number(given):
        return "; write it without quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_tag(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


def _has_items(given: object) -> bool:
    return isinstance(given, list | tuple | dict) and given not in ((), [], {})


def _show(given: Value) -> str:
    if isinstance(given, dict | list):
        return "a group of fields" if isinstance(given, dict) else "a list"
    if isinstance(given, bool):
        return str(given).lower()
    return repr(given) if len(repr(given)) <= 60 else f"{repr(given)[:57]}..."


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
