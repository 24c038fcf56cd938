"""One wrong field of a request in OpenAI's words: which it is, what was expected, what came."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivnun.server.field_names import find_field_names, say_unknown

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
LITERALS = ("literal_error", "enum")
# The field that tells which of several objects is meant is wrong, or is not there; pydantic names the object.
WRONG_TAG, NO_TAG = "union_tag_invalid", "union_tag_not_found"
SHOWN = 100
# Pydantic lists what may stand in a field as Python writes it.
_PYTHON_WORDS = re.compile(r"'[^']*'|True|False|None")
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}


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


def describe_field_error(errors: Sequence[Any], body: Any, shape: Any = None) -> FieldError:
    """The first wrong field; where a value may have several shapes, the shape that it comes nearest to.

    Args:
        errors: As pydantic lists them, with `type`, `loc`, `input` and `ctx`.
        body: What was sent, to tell a field's name from the name of a shape.
        shape: The type that the body should have, to tell the nearest name of an unknown field.
    """
    if not errors:
        return FieldError("The request is invalid.", None, None)
    if errors[0]["type"] == "json_invalid":
        return FieldError("We could not parse the JSON body of your request.", None, "invalid_json")
    paths = [_path(error, body) for error in errors]
    field = paths[0][:1]
    alike = [(len(path), -place) for place, path in enumerate(paths) if path[:1] == field]
    path = paths[-max(alike)[1]]
    same = [error for error, other in zip(errors, paths, strict=True) if other == path]
    if same[0]["type"] == "extra_forbidden":
        names = find_field_names(shape, body, path[:-1]) if same[0]["loc"][0] == "body" else []
        return FieldError(say_unknown(_dotted(path) or "", str(path[-1]), names), _dotted(path), "unknown_parameter")
    return _describe(same, _dotted(path))


def _path(error: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """The steps of an error's place that are fields; pydantic puts the names of a union's members among them."""
    where, *steps = error["loc"]
    if where != "body":
        return tuple(steps)
    path: list[str | int] = []
    value = body
    for number, step in enumerate(steps, start=1):
        if _has(value, step):
            value = value[step]
        elif not (error["type"] == "missing" and number == len(steps)):
            continue
        path.append(step)
    if error["type"] in (WRONG_TAG, NO_TAG):
        path.append(error["ctx"]["discriminator"].strip("'"))
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


def _describe(same: Sequence[Mapping[str, Any]], param: str | None) -> FieldError:
    """One field, whatever each of the shapes that it may have says of it."""
    kinds = [error["type"] for error in same]
    if kinds[0] in ("missing", NO_TAG) or param is None:
        return _missing(kinds[0], param)
    if kinds[0] == WRONG_TAG:
        context = same[0]["ctx"]
        message = f"Invalid value: {_show(context['tag'])}. Supported values are: {context['expected_tags']}."
        return FieldError(message, param, "invalid_value")
    literals = [_json_words(error["ctx"]["expected"]) for error in same if error["type"] in LITERALS]
    for error in same:
        if error["type"] in BOUNDS or error["type"] in LENGTHS:
            # Of the right kind: nearer than a shape of another one.
            return _out_of_bounds(error, literals, param)
    expected = [KINDS[kind] for kind in kinds if kind in KINDS]
    if expected:
        return _wrong_kind(list(dict.fromkeys([*literals, *expected])), same[0]["input"], param)
    if literals:
        message = f"Invalid value: {_show(same[0]['input'])}. Supported values are: {literals[0]}."
    else:
        message = f"Invalid '{param}': {_plain(same[0])}."
    return FieldError(message, param, "invalid_value")


def _missing(kind: str, param: str | None) -> FieldError:
    if param is None:
        problem = "The body of the request must be a JSON object." if kind != "missing" else "The request has no body."
        return FieldError(problem, None, "invalid_type")
    return FieldError(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _out_of_bounds(error: Mapping[str, Any], literals: Sequence[str], param: str) -> FieldError:
    kind, context, value = error["type"], error["ctx"], error["input"]
    if kind in LENGTHS:
        code, problem, bound, key = LENGTHS[kind]
        kind = problem.split()[0]
        expected = f"Expected {'an' if kind == 'array' else 'a'} {kind} with {bound} {context[key]}."
        return FieldError(f"Invalid '{param}': {problem}. {expected}", param, code)
    code, sign, key = BOUNDS[kind]
    # What stands in an address is text, so that only the bound tells what the field holds.
    number = "integer" if isinstance(context[key], int) and not isinstance(value, float) else "decimal"
    problem = f"{number} {code.replace('_', ' ').replace('max', 'maximum').replace('min', 'minimum')}"
    wanted = " or ".join([f"a value {sign} {_show_number(context[key])}", *literals])
    expected = f"Expected {wanted}, but got {_show(value)} instead."
    return FieldError(f"Invalid '{param}': {problem}. {expected}", param, f"{number}_{code}")


def _wrong_kind(expected: Sequence[str], value: Any, param: str) -> FieldError:
    wanted = expected[0] if len(expected) == 1 else "one of " + " or ".join(expected)
    # Where some texts are right, its kind says nothing of a wrong one.
    got = _show(value) if isinstance(value, str) and any("'" in each for each in expected) else _kind_of(value)
    problem = f"expected {wanted}, but got {got} instead"
    return FieldError(f"Invalid type for '{param}': {problem}.", param, "invalid_type")


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (int, "an integer"), (float, "a decimal"), (str, "a string"), (list, "an array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")


def _show(value: Any) -> str:
    text = _json_words(repr(value)) if isinstance(value, (str, int, float, bool)) else _kind_of(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _show_number(value: float) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _json_words(text: str) -> str:
    """Values as a client writes them; texts keep the single quotes that OpenAI puts around them."""
    return _PYTHON_WORDS.sub(lambda found: _JSON_WORDS.get(found[0], found[0]), text)


def _plain(error: Mapping[str, Any]) -> str:
    """Pydantic's own words; those of our validators begin with what kind of exception they were."""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:].rstrip(".")
