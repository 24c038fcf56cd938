"""The file of a batch: one request in each line, all of them checked before the first is answered.

Memory does not grow with the requests: of each line only its place in the file and its name are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from kivnun.server.bodies import MAX_JSON_BYTES

MAX_REQUESTS = 50_000
MAX_CUSTOM_ID = 512
SHOWN_ERRORS = 100
METHOD = "POST"
BOM = b"\xef\xbb\xbf"
FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True)
class BatchRequest:
    """A request of a batch.

    Attributes:
        custom_id: The client's name for it; unique in the batch.
        start: Where its line begins in the file.
        length: Bytes of the line.
    """

    custom_id: str
    start: int
    length: int

    def read_body(self, file: BinaryIO) -> dict[str, Any]:
        """What is asked, from the file that was checked.

        Args:
            file: Open for reading.
        """
        file.seek(self.start)
        body: dict[str, Any] = orjson.loads(file.read(self.length))["body"]
        return body


@dataclass
class BatchInput:
    """What the file of a batch holds.

    Attributes:
        requests: In the file's order; empty where anything is wrong.
        errors: What is wrong, as clients see it.
        model: The model that every request asks; "" where there is none.
    """

    requests: list[BatchRequest] = field(default_factory=list[BatchRequest])
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    model: str = ""


def read_input(path: Path, endpoint: str) -> BatchInput:
    """Check every line of a batch's file.

    Args:
        path: The file.
        endpoint: Where every request must go.
    """
    found, names, num_errors = BatchInput(), set[str](), 0
    with path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        for number, line in enumerate(iter(lambda: file.readline(MAX_JSON_BYTES + 1), b""), start=1):
            begun, start = start, start + len(line)
            if not line.strip():
                continue
            value, error = _read_line(line, endpoint, names, found)
            if error is None and len(found.requests) >= MAX_REQUESTS:
                error = _error("too_many_requests", f"A batch has at most {MAX_REQUESTS:,} requests.", None)
            if error is not None:
                num_errors += 1
                if len(found.errors) < SHOWN_ERRORS:
                    found.errors.append(error | {"line": number})
            if error is not None and (error["code"] == "too_many_requests" or len(line) > MAX_JSON_BYTES):
                break
            if value is not None and error is None:
                found.requests.append(BatchRequest(value["custom_id"], begun, len(line)))
    return _close(found, num_errors)


def _close(found: BatchInput, num_errors: int) -> BatchInput:
    if not found.requests and not num_errors:
        found.errors.append(_error("empty_file", "The input file is empty.", None) | {"line": None})
    if num_errors > len(found.errors):
        more = num_errors - len(found.errors)
        found.errors.append(_error("more_errors", f"{more:,} further line(s) are wrong.", None) | {"line": None})
    if found.errors:
        found.requests.clear()
    return found


def _read_line(
    line: bytes, endpoint: str, names: set[str], found: BatchInput
) -> tuple[Mapping[str, Any] | None, dict[str, Any] | None]:
    """The request of a line, or what is wrong with it."""
    if len(line) > MAX_JSON_BYTES:
        return None, _error("line_too_long", f"A line has at most {MAX_JSON_BYTES:,} bytes.", None)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None, _error("invalid_json_line", "This line is not parseable as valid JSON.", None)
    if not isinstance(value, dict):
        return None, _error("invalid_json_line", "This line is no JSON object.", None)
    error = _check_head(value, endpoint, names) or _check_body(value.get("body"), found)
    if error is None:
        names.add(value["custom_id"])
        found.model = value["body"]["model"]
    return value, error


def _check_head(value: Mapping[str, Any], endpoint: str, names: set[str]) -> dict[str, Any] | None:
    missing = [name for name in FIELDS if name not in value]
    if missing:
        return _error("missing_required_parameter", f"Missing required parameter: '{missing[0]}'.", missing[0])
    unknown = [name[:100] for name in value if name not in FIELDS]
    if unknown:
        return _error("unknown_parameter", f"Unknown parameter: '{unknown[0]}'.", unknown[0])
    if value["method"] != METHOD:
        return _error("invalid_method", f"The method of a request must be '{METHOD}'.", "method")
    if value["url"] != endpoint:
        words = f"The URL provided for this request does not match the batch endpoint, {endpoint}."
        return _error("invalid_url", words, "url")
    return _check_name(value["custom_id"], names)


def _check_name(custom_id: object, names: set[str]) -> dict[str, Any] | None:
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        return _error("invalid_custom_id", f"The custom_id must be text of 1 to {MAX_CUSTOM_ID} signs.", "custom_id")
    if custom_id in names:
        words = "The custom_id for this request is a duplicate of another request. It must be unique for each request."
        return _error("duplicate_custom_id", words, "custom_id")
    return None


def _check_body(body: object, found: BatchInput) -> dict[str, Any] | None:
    if not isinstance(body, dict):
        return _error("invalid_type", "The body of a request must be a JSON object.", "body")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return _error("missing_required_parameter", "Missing required parameter: 'body.model'.", "body.model")
    if body.get("stream"):
        return _error("unsupported_parameter", "Answers of a batch cannot be streamed.", "body.stream")
    if found.model and model != found.model:
        words = "The model for this request does not match the rest of the batch."
        return _error("mismatched_model", f"{words} Each batch must contain requests for a single model.", "body.model")
    return None


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param}
