"""Overrides from the command line: `--set training.learning_rate=1e-4`."""

from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.recipe.document import MalformedDocumentError, Path, Value, read_document


class MalformedOverrideError(Exception):
    """An override that cannot be applied."""


@dataclass(frozen=True)
class Override:
    """One `--set`."""

    text: str
    """As it was written."""
    path: Path
    """The field."""
    value: Value
    """The value, read as YAML."""


def parse_override(text: str) -> Override:
    """Read `a.b=value`; the value is YAML, so that `[q_proj, v_proj]` and `{kind: full}` work.

    Raises:
        MalformedOverrideError: When the text does not have that form.
    """
    path, equals, value = text.partition("=")
    names = tuple(name.strip() for name in path.split("."))
    if not equals or not all(names):
        raise MalformedOverrideError("should have the form section.field=value")
    try:
        document = read_document(value)
    except MalformedDocumentError as error:
        raise MalformedOverrideError(f"its value is not YAML: {error.problem}") from error
    if document.problems:
        raise MalformedOverrideError(f"its value is not YAML: {document.problems[0][2]}")
    return Override(text, names, document.value)


def apply_overrides(value: Value, overrides: Sequence[Override]) -> Value:
    """The value of a recipe with its overrides; the value that is given stays as it is.

    Raises:
        MalformedOverrideError: When an override reaches into a value that has no fields.
    """
    for override in overrides:
        value = _replaced(value, override, 0)
    return value


def _replaced(value: Value, override: Override, depth: int) -> Value:
    if depth == len(override.path):
        return override.value
    if value is None:
        value = {}
    if not isinstance(value, dict):
        group = ".".join(str(name) for name in override.path[:depth])
        raise MalformedOverrideError(f"{group} is {value!r} and has no fields; set {group} as a whole")
    name = str(override.path[depth])
    return {**value, name: _replaced(value.get(name), override, depth + 1)}
