"""Answers that are JSON: whether they are, whether they keep a schema, and which of their fields are right.

A field is a name with a value; names of nested objects are joined with dots, each element of a list is a value of its
own, and a list of objects with `label` and `text` (and `start` and `end`) holds spans, whose names are their labels.
Values are compared as text after NFC and stripping: whether 3 is a number or text is for a schema to say. A field that
is null is one that is absent.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import orjson
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from kivnun.errors import UserError
from kivnun.evaluation.metrics import normalize_text
from kivnun.evaluation.spans import Item, count_shared, overlap

Counts = dict[str, tuple[int, int, int]]
"""By field: values that are right, that were answered, that were expected."""

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", flags=re.DOTALL | re.IGNORECASE)


def read_json(text: str) -> tuple[bool, object]:
    """Whether a text is JSON, and its value.

    Args:
        text: An answer, exactly as it was given.
    """
    try:
        return True, orjson.loads(text.strip())
    except orjson.JSONDecodeError:
        return False, None


def read_items(text: str) -> list[Item] | None:
    """The items of an answer; None where it is no JSON object or list. A fence of Markdown around it is taken off.

    Lists within lists that are too deep to be walked through hold nothing that anybody wants.

    Args:
        text: An answer or a reference.
    """
    fenced = _FENCED.fullmatch(text.strip())
    is_json, value = read_json(fenced[1] if fenced else text)
    try:
        return list_items(value) if is_json and isinstance(value, dict | list) else None
    except RecursionError:
        return None


def list_items(value: object, name: str = "") -> list[Item]:
    """The items of a JSON value.

    Args:
        value: The value.
        name: The name of the field that holds it.
    """
    if isinstance(value, list):
        return [item for element in cast("list[object]", value) for item in list_items(element, name)]
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        span = _read_span(fields, name)
        if span is not None:
            return [span]
        return [item for key, each in fields.items() for item in list_items(each, f"{name}.{key}" if name else key)]
    return [] if value is None else [Item(name, _say_value(value))]


def field_f1(answer: str, reference: str) -> float:
    """F1 of the fields of one answer; 1 where neither has any, 0 where the answer is no JSON.

    Args:
        answer: What was answered.
        reference: What should have been.
    """
    given, expected = read_items(answer), read_items(reference) or []
    if given is None:
        return 0.0
    return _f1(count_shared(given, expected).total(), len(given), len(expected))


def field_overlap(answer: str, reference: str) -> float:
    """F1 of the fields, in which a value that is right in part counts in part.

    Args:
        answer: What was answered.
        reference: What should have been.
    """
    given, expected = read_items(answer), read_items(reference) or []
    return 0.0 if given is None else _f1(overlap(given, expected), len(given), len(expected))


def count_fields(answer: str, references: Sequence[str]) -> Counts:
    """The counts of one answer, by field, against the reference that it comes nearest to.

    Args:
        answer: What was answered.
        references: What would be right.
    """
    reference = max(references, key=lambda each: field_f1(answer, each))
    given, expected = read_items(answer) or [], read_items(reference) or []
    shared = count_shared(given, expected)
    names = dict.fromkeys(item.name for item in (*expected, *given))
    return {
        name: (
            shared[name],
            sum(item.name == name for item in given),
            sum(item.name == name for item in expected),
        )
        for name in names
    }


def read_schema(path: str) -> dict[str, Any]:
    """A JSON Schema from a file.

    Args:
        path: The file.

    Raises:
        UserError: `evaluation-invalid` where there is none, or it is none.
    """
    hint = "name a file with a JSON Schema in evaluation.json_schema (json-schema.org)"
    try:
        schema = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError("evaluation-invalid", f"the JSON Schema {path} cannot be read: {reason}", hint=hint) from error
    except orjson.JSONDecodeError as error:
        raise UserError("evaluation-invalid", f"the JSON Schema {path} is no JSON: {error}", hint=hint) from error
    if not isinstance(schema, dict):
        raise UserError("evaluation-invalid", f"the JSON Schema {path} is no JSON object", hint=hint)
    schema = cast("dict[str, Any]", schema)
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its root"
        problem = f"the JSON Schema {path} is invalid at {place}: {error.message}"
        raise UserError("evaluation-invalid", problem, hint=hint) from error
    return schema


def make_validator(schema: Mapping[str, Any]) -> Validator:
    """A validator that fetches nothing: references into the network cannot be resolved.

    Args:
        schema: A valid schema.
    """
    return validator_for(schema)(schema, registry=REGISTRY)


def keeps_schema(answer: str, validator: Validator) -> float:
    """1 where the whole answer is JSON that keeps the schema, else 0.

    Args:
        answer: What was answered.
        validator: Of the schema.

    Raises:
        UserError: `evaluation-invalid` where the schema refers to one that is not in it.
    """
    is_json, value = read_json(answer)
    try:
        return float(is_json and validator.is_valid(cast("Any", value)))
    except RecursionError:
        return 0.0
    except Unresolvable as error:
        raise UserError(
            "evaluation-invalid",
            f"the JSON Schema refers to {error.ref}, which it does not hold",
            hint="write what it refers to under `$defs`; nothing is fetched",
        ) from error


def _read_span(fields: Mapping[str, object], name: str) -> Item | None:
    label, text = fields.get("label"), fields.get("text")
    if not isinstance(label, str) or not isinstance(text, str) or fields.keys() - {"label", "text", "start", "end"}:
        return None
    start, end = fields.get("start"), fields.get("end")
    place = (start, end) if isinstance(start, int) and isinstance(end, int) and start <= end else None
    return Item(f"{name}.{label}" if name else label, normalize_text(text), place)


def _say_value(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return normalize_text(value) if isinstance(value, str) else orjson.dumps(value).decode()


def _f1(shared: float, num_given: int, num_expected: int) -> float:
    return 2 * shared / (num_given + num_expected) if num_given + num_expected else 1.0
