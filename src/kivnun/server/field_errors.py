"""One wrong field of a request in OpenAI's words: which it is, what was expected, what came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = {
    "string_type": "a string",
    "string_unicode": "a string of valid Unicode",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "float_parsing": "a decimal",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "mapping_type": "an object",
    "none_required": "null",
}
BOUNDS = {
    "less_than_equal": ("above_max_value", "<=", "le"),
    "less_than": ("above_max_value", "<", "lt"),
    "greater_than_equal": ("below_min_value", ">=", "ge"),
    "greater_than": ("below_min_value", ">", "gt"),
}
LENGTHS = {
    "string_too_long": ("string_above_max_length", "string too long", "maximum length", "max_length"),
    "string_too_short": ("string_below_min_length", "string too short", "minimum length", "min_length"),
    "too_long": ("array_above_max_length", "array too long", "maximum length", "max_length"),
    "too_short": ("array_below_min_length", "array too short", "minimum length", "min_length"),
}
SHOWN = 100


@dataclass(frozen=True)
class FieldError:
    """What a client is told about a field.

    Attributes:
        message: A sentence.
        param: The field; None for the body as a whole.
        code: OpenAI's word for it.
    """

    message: str
    param: str | None
    code: str | None


def describe_field_error(errors: Sequence[Any], body: Any) -> FieldError:
    """The first wrong field; where a value may have several shapes, the shape that it comes nearest to.

    Args:
        errors: As pydantic lists them, with `type`, `loc`, `input` and `ctx`.
        body: What was sent, to tell a field's name from the name of a shape.
    """
    if not errors:
        return FieldError("The request is invalid.", None, None)
    if errors[0]["type"] == "json_invalid":
        return FieldError("We could not parse the JSON body of your request.", None, "invalid_json")
    paths = [_path(error, body) for error in errors]
    field = paths[0][:1]
    alike = [(len(path), -place) for place, path in enumerate(paths) if path[:1] == field]
    place = -max(alike)[1]
    same = [error for error, path in zip(errors, paths, strict=True) if path == paths[place]]
    return _describe(errors[place], same, _dotted(paths[place]))


def _path(error: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """The steps of an error's place that are fields; pydantic puts the names of a union's members among them."""
    where, *steps = error["loc"]
    if where != "body":
        return tuple(steps)
    path: list[str | int] = []
    value = body
    for step in steps:
        if _has(value, step):
            value = value[step]
        elif not (error["type"] == "missing" and step == steps[-1]):
            continue
        path.append(step)
    return tuple(path)


def _has(value: Any, step: Any) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, Mapping) and step in value


def _dotted(path: Sequence[str | int]) -> str | None:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text[:SHOWN] or None


def _describe(error: Mapping[str, Any], same: Sequence[Mapping[str, Any]], param: str | None) -> FieldError:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing" or param is None:
        return _missing(kind, param)
    if kind == "extra_forbidden":
        return FieldError(f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if kind in BOUNDS or kind in LENGTHS:
        return _out_of_bounds(kind, context, error["input"], param)
    expected = [KINDS[each["type"]] for each in same if each["type"] in KINDS]
    if expected:
        return _wrong_kind(list(dict.fromkeys(expected)), error["input"], param)
    if kind in ("literal_error", "enum"):
        message = f"Invalid value: {_show(error['input'])}. Supported values are: {context['expected']}."
    else:
        message = f"Invalid '{param}': {_plain(error)}."
    return FieldError(message, param, "invalid_value")


def _missing(kind: str, param: str | None) -> FieldError:
    if param is None:
        problem = "The body of the request must be a JSON object." if kind != "missing" else "The request has no body."
        return FieldError(problem, None, "invalid_type")
    return FieldError(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _out_of_bounds(kind: str, context: Mapping[str, Any], value: Any, param: str) -> FieldError:
    if kind in LENGTHS:
        code, problem, bound, key = LENGTHS[kind]
        expected = f"Expected a {problem.split()[0]} with {bound} {context[key]}."
        return FieldError(f"Invalid '{param}': {problem}. {expected}", param, code)
    code, sign, key = BOUNDS[kind]
    # What stands in an address is text, so that only the bound tells what the field holds.
    number = "integer" if isinstance(context[key], int) and not isinstance(value, float) else "decimal"
    problem = f"{number} {code.replace('_', ' ').replace('max', 'maximum').replace('min', 'minimum')}"
    expected = f"Expected a value {sign} {context[key]}, but got {_show(value)} instead."
    return FieldError(f"Invalid '{param}': {problem}. {expected}", param, f"{number}_{code}")


def _wrong_kind(expected: Sequence[str], value: Any, param: str) -> FieldError:
    wanted = expected[0] if len(expected) == 1 else "one of " + " or ".join(expected)
    problem = f"expected {wanted}, but got {_kind_of(value)} instead"
    return FieldError(f"Invalid type for '{param}': {problem}.", param, "invalid_type")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (int, "an integer"), (float, "a decimal"), (str, "a string"), (list, "an array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool)) else _kind_of(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _plain(error: Mapping[str, Any]) -> str:
    """Pydantic's own words; those of our validators begin with what kind of exception they were."""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:].rstrip(".")
