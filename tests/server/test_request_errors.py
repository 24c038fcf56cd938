"""The words in which a wrong field is told, and the bodies that are refused before any route reads them."""

import json

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from kivnun.errors import UserError
from kivnun.server.bodies import MAX_DEPTH, RequestBody, check_json
from kivnun.server.errors import ApiError, to_api_error
from kivnun.serving.answers import BusyError


class Message(RequestBody):
    role: str
    content: str | list[str]


class Body(RequestBody):
    model: str = Field(max_length=8)
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    n: int = Field(default=1, ge=1)


GOOD = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def told(body: object) -> ApiError:
    """What a client is told about a body."""
    try:
        Body.model_validate(body)
    except ValidationError as error:
        errors = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        return to_api_error(RequestValidationError(errors, body=body))
    raise AssertionError("the body is right")


@pytest.mark.parametrize(
    ("change", "param", "code", "message"),
    [
        ({"model": 3}, "model", "invalid_type", "expected a string, but got an integer instead"),
        ({"model": "123456789"}, "model", "string_above_max_length", "maximum length 8"),
        ({"messages": []}, "messages", "array_below_min_length", "minimum length 1"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "invalid_type", "a string or an array"),
        ({"messages": [{"role": "u", "content": ["a", 7]}]}, "messages[0].content[1]", "invalid_type", "a string"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value", "Expected a value <= 2"),
        ({"n": 0}, "n", "integer_below_min_value", "Expected a value >= 1"),
        ({"tempreature": 1}, "tempreature", "unknown_parameter", "Unrecognized request argument supplied: tempreature"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_field_is_told_as_the_hosted_service_does(change: dict, param: str, code: str, message: str) -> None:
    error = told(GOOD | change)
    assert (error.status, error.param, error.code, error.type) == (400, param, code, "invalid_request_error")
    assert message in error.message


def test_a_missing_field_is_named() -> None:
    error = told({"messages": GOOD["messages"]})
    assert (error.param, error.message) == ("model", "Missing required parameter: 'model'.")


def test_a_body_that_is_no_object_is_refused() -> None:
    assert told([1]).status == 400


NESTED = "[" * MAX_DEPTH + "]" * MAX_DEPTH


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"a": NaN}',
        b'{"a": 1e999999}',
        b'"\xff"',
        b'"\\ud800"',
        f"[{NESTED}]".encode(),
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a": 9223372036854775808}',
        b"-" + b"9" * 5000,
        b'{"a": ["\\u0000"]}',
        b'{"\\u0000": 1}',
    ],
    ids=range(12),
)
def test_json_that_cannot_be_kept_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        check_json(body)
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    "value",
    [
        json.loads(NESTED),
        "[" * 500,
        {"a": "\\u0000", "b": "9" * 5000, "c": '"' * 10},
        [2**63 - 1, -(2**63), 0.1234567890123456789012, 1e300],
        {"\u05d0": "😀"},
    ],
    ids=range(5),
)
def test_json_that_only_looks_so_is_taken(value: object) -> None:
    check_json(json.dumps(value).encode())
    check_json(json.dumps(value, ensure_ascii=False).encode())


def test_an_error_of_the_command_line_becomes_a_400_with_its_code() -> None:
    error = to_api_error(UserError("prompt-invalid", "the prompt is empty", hint="give a text"))
    assert (error.status, error.code, error.message) == (400, "prompt-invalid", "the prompt is empty. give a text")


def test_a_full_disk_is_not_the_clients_fault_and_is_not_tried_again() -> None:
    error = to_api_error(UserError("disk-full", "cannot write /srv/data/files/x", hint="free some space"))
    assert (error.status, error.headers) == (507, {"x-should-retry": "false"})
    assert "/srv" not in error.message


def test_a_busy_server_says_when_to_come_again() -> None:
    error = to_api_error(BusyError(1.2))
    assert (error.status, error.headers) == (429, {"retry-after": "2", "retry-after-ms": "1200"})


def test_an_unknown_error_tells_nothing_of_itself() -> None:
    error = to_api_error(ValueError("a secret"))
    assert error.status == 500
    assert "secret" not in json.dumps(error.to_json())


def test_a_validator_of_ours_is_told_in_its_own_words() -> None:
    class Even(BaseModel):
        n: int

    adapter = TypeAdapter(Even)
    with pytest.raises(ValidationError) as raised:
        adapter.validate_python({"n": None})
    error = to_api_error(RequestValidationError([{**raised.value.errors()[0], "loc": ("query", "n")}], body=None))
    assert error.message == "Invalid type for 'n': expected an integer, but got null instead."
