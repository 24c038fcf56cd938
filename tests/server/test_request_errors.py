"""The words in which a wrong field is told, and the bodies that are refused before any route reads them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from kivnun.errors import UserError
from kivnun.server.bodies import MAX_DEPTH, MAX_TOLD_ERRORS, MAX_VALUES, RequestBody, check_json
from kivnun.server.chat.shapes import ChatRequest
from kivnun.server.errors import ApiError, to_api_error
from kivnun.server.field_errors import FieldError, describe_field_error
from kivnun.server.tuning.shapes import CreateJob
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


def told_of(shape: type[BaseModel], body: Any) -> FieldError:
    """What is told about a body of one of the routes."""
    with pytest.raises(ValidationError) as raised:
        shape.model_validate(body)
    return describe_field_error(
        [{**each, "loc": ("body", *each["loc"])} for each in raised.value.errors()], body, shape
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_epochs", 0, "integer below minimum value. Expected a value >= 1 or 'auto', but got 0 instead."),
        ("n_epochs", 51, "integer above maximum value. Expected a value <= 50 or 'auto', but got 51 instead."),
        ("n_epochs", "many", "expected one of 'auto' or an integer, but got 'many' instead."),
        ("n_epochs", True, "expected one of 'auto' or an integer, but got a boolean instead."),
        ("batch_size", 257, "integer above maximum value. Expected a value <= 256 or 'auto', but got 257 instead."),
        ("learning_rate_multiplier", 0, "Expected a value > 0 or 'auto', but got 0 instead."),
        ("beta", 2.5, "decimal above maximum value. Expected a value <= 2 or 'auto', but got 2.5 instead."),
    ],
)
def test_a_number_that_may_be_auto_is_told_with_its_bound_and_with_auto(name: str, value: Any, message: str) -> None:
    body = {"model": "m", "training_file": "f", "method": {"type": "dpo", "dpo": {"hyperparameters": {name: value}}}}
    error = told_of(CreateJob, body)
    assert error.param == f"method.dpo.hyperparameters.{name}"
    assert error.message.endswith(message)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing required parameter: "),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.name",
            "Missing required parameter: ",
        ),
        ({"response_format": {}}, "response_format.type", "Missing required parameter: "),
        ({"response_format": {"type": "xml"}}, "response_format.type", "Invalid value: 'xml'. Supported values are: "),
        ({"messages": [{"role": "x"}]}, "messages[0].role", "Invalid value: 'x'. Supported values are: 'system', "),
        ({"store": True}, "store", "Invalid 'store': completions are not kept here; leave it out."),
        ({"modalities": [True]}, "modalities[0]", "Invalid value: true. Supported values are: 'text'."),
        ({"store": "yes"}, "store", "Invalid value: 'yes'. Supported values are: false."),
    ],
)
def test_a_field_of_a_chat_is_told_once_and_in_the_words_of_json(change: dict, param: str, message: str) -> None:
    error = told_of(ChatRequest, GOOD | change)
    assert (error.param, error.message[: len(message)]) == (param, message)
    assert error.code in ("missing_required_parameter", "invalid_value")


@pytest.mark.parametrize(
    ("shape", "change", "param", "meant"),
    [
        (ChatRequest, {"tempreature": 1}, "tempreature", "temperature"),
        (ChatRequest, {"messages": [{"role": "user", "content": "", "nme": ""}]}, "messages[0].nme", "name"),
        (ChatRequest, {"tools": [{"type": "function", "function": {"name": "f", "strct": True}}]}, None, "strict"),
        (CreateJob, {"hyperparameters": {"epochs": 3}}, "hyperparameters.epochs", "n_epochs"),
        (CreateJob, {"method": {"type": "dpo", "dpo": {"hyperparameters": {"bata": 1}}}}, None, "beta"),
    ],
)
def test_a_misspelt_field_is_told_with_the_nearest_one_of_its_own_object(
    shape: type[BaseModel], change: dict, param: str | None, meant: str
) -> None:
    error = told_of(shape, (GOOD if shape is ChatRequest else {"model": "m", "training_file": "f"}) | change)
    assert error.param == (param or error.param)
    assert error.message == f"Unrecognized request argument supplied: {error.param}. Did you mean '{meant}'?"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"min_p": 0.1}, "min_p"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"messages": [{"role": "assistant", "reasoning_content": ""}]}, "messages[0].reasoning_content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "cache_control": {}}]}]},
            "messages[0].content[0].cache_control",
        ),
    ],
)
def test_a_field_of_another_server_is_named_and_to_be_left_out(change: dict, param: str) -> None:
    error = told_of(ChatRequest, GOOD | change)
    assert (error.param, error.code) == (param, "unknown_parameter")
    assert error.message.startswith(f"Unrecognized request argument supplied: {param}. ")
    assert error.message.endswith("leave it out.")


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


@pytest.mark.parametrize(
    "wrong",
    [
        lambda count: {"messages": [1] * count},
        lambda count: {"messages": [{"role": "user", "content": [1] * count}]},
        lambda count: {f"field{number}": 1 for number in range(count)},
    ],
    ids=["values", "values within", "fields"],
)
def test_very_many_errors_are_told_as_one(wrong: Callable[[int], dict]) -> None:
    with pytest.raises(ApiError, match="More than 100 fields") as caught:
        Body.model_validate(GOOD | wrong(MAX_TOLD_ERRORS + 1))
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    assert told(GOOD | wrong(20)).code in ("invalid_type", "unknown_parameter")


def test_a_body_of_very_many_values_is_refused_by_its_bytes() -> None:
    check_json(b"[" + b"1," * MAX_VALUES + b"1]")
    with pytest.raises(ApiError, match="commas") as caught:
        check_json(b"[" + b"1," * (MAX_VALUES + 1) + b"1]")
    assert (caught.value.status, caught.value.code) == (400, "too_large")


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
