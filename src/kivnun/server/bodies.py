"""Bodies in JSON, checked once before any route reads them: what Python or a database would choke on is refused."""

import re
from itertools import accumulate
from typing import Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from kivnun.server.errors import ApiError

MAX_JSON_BYTES = 32 << 20
MAX_DEPTH = 100
# More than any request of sense has: the tokens of the longest embedding request of the hosted service are 300,000.
MAX_VALUES = 500_000
MAX_TOLD_ERRORS = 100
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_LONG_INTEGER = re.compile(rb"-?[0-9]{19,}+(?![.eE0-9])")
_BRACKETS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


class RequestBody(BaseModel):
    """What a client sends as JSON: unknown fields are refused, and no text passes for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="wrap")
    @classmethod
    def tell_few_errors(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Read a body; one with very many errors is refused as a whole, for to tell them all takes gigabytes."""
        return read_few_errors(value, read)


def read_few_errors(value: Any, read: ModelWrapValidatorHandler[Any]) -> Any:
    """What a body, or a part of it, is read as.

    Args:
        value: As it came.
        read: Of its shape.

    Raises:
        ApiError: 400 for more than 100 errors.
        ValidationError: For fewer.
    """
    try:
        return read(value)
    except ValidationError as error:
        if error.error_count() <= MAX_TOLD_ERRORS:
            raise
        message = f"More than {MAX_TOLD_ERRORS} fields of the JSON body of your request are wrong."
        raise ApiError(400, message, code="invalid_value") from None


def check_json(body: bytes) -> None:
    """Refuse a body that is no JSON, or JSON that cannot be kept.

    Args:
        body: As it came.

    Raises:
        ApiError: 400 for what is no JSON in UTF-8 (RFC 8259; NaN and lone surrogates are none), is nested more than
            100 deep, has more than 500,000 commas, or holds an integer of more than 64 bits or the character NUL, which
            PostgreSQL keeps in no text.
    """
    # First, and from the bytes alone: what is read below takes the time of all clients.
    if body.count(b",") > MAX_VALUES:
        message = f"The JSON body of your request has more than {MAX_VALUES} commas: send fewer values at a time."
        raise ApiError(400, message, code="too_large")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"We could not parse the JSON body of your request: {str(error)[:200]}."
        raise ApiError(400, message, code="invalid_json") from error
    outside = _STRING.sub(b"", body)
    depth = max(accumulate(_BRACKETS[sign] for sign in outside.translate(None, _NO_BRACKETS)), default=0)
    if depth > MAX_DEPTH:
        message = f"The JSON body of your request is nested {depth} deep; at most {MAX_DEPTH} are read."
        raise ApiError(400, message, code="invalid_json")
    if any(not -(2**63) <= int(digits[:30]) < 2**63 for digits in _LONG_INTEGER.findall(outside)):
        message = "The JSON body of your request holds an integer that is too large: at most 64 bits are read."
        raise ApiError(400, message, code="invalid_json")
    if b"\\u0000" in body and _holds_nul(value):
        message = "The JSON body of your request holds the character NUL (\\u0000), which is not allowed."
        raise ApiError(400, message, code="invalid_json")


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(each) for key, each in value.items())
    return isinstance(value, list) and any(_holds_nul(each) for each in value)
