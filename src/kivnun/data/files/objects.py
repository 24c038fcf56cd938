"""One JSON text becomes an object, or findings that say exactly what is wrong with it and where."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson

from kivnun.data.files.closing import find_closing
from kivnun.data.files.encoding import describe_bad_bytes, find_bad_byte
from kivnun.data.findings import Finding

# Digits are all alike here, and so are all kinds of white space.
_PLAIN = bytes.maketrans(b"123456789\t\r\n", b"000000000   ")
_ESCAPES = (b"\\u0020", b"\\u0022", b"\\u003a", b"\\u003A")
# Integers that orjson keeps, and the fewest digits of those that it makes floats of.
_LEAST, _GREATEST = -(2**63), 2**64 - 1
_LONG_NUMBER, _LONG_NEGATIVE = b"0" * 20, b"-" + b"0" * 19
_SAFE_DIGITS, _MOST_DIGITS = 18, 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece of text stands.

    Attributes:
        file: The file, as the user named it.
        line: The line on which the piece begins, from 1.
        offset: Bytes of the unpacked file before the piece.
    """

    file: str
    line: int
    offset: int


def parse_object(text: bytes, place: Place) -> tuple[Mapping[str, object] | None, list[Finding]]:
    """The object that a JSON text is, or None, and what is wrong with it."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return None, describe_fault(text, place, error)
    if not isinstance(value, dict):
        said = f"expected an object {{...}}, got {shorten(text.decode().strip())}"
        return None, [Finding("json-not-object", place.file, place.line, said)]
    fields = cast("dict[str, object]", value)
    num_written = count_written_keys(fields)
    if num_written < 0:
        # Whatever comes behind could not write it again either.
        return None, [Finding("json-syntax", place.file, place.line, "lists and objects are nested too deeply")]
    return (fields, []) if surely_keeps_all(text, num_written) else _find_losses(fields, text, place)


def surely_keeps_all(text: bytes, num_written: int) -> bool:
    """Whether nothing was lost when JSON was read: every key stands once, and no integer was rounded.

    A quick look: where it says no, only a closer one can tell.

    Args:
        text: The JSON, of one object or of several.
        num_written: What `count_written_keys` says of what was read.
    """
    plain = text.translate(_PLAIN)
    return _count_keys(plain) == num_written and not (
        _LONG_NUMBER in plain
        or _LONG_NEGATIVE in plain
        # More than one space before a colon, or an escape that is written again as a quote, a space or a colon, would
        # make up for a key that stands twice.
        or b"  :" in plain
        or (b"\\u00" in text and any(escape in text for escape in _ESCAPES))
    )


def _count_keys(text: bytes) -> int:
    """How often something that looks like a key stands in a JSON text."""
    return text.count(b'":') + text.count(b'" :')


def count_written_keys(value: object) -> int:
    """How often something that looks like a key would stand in the value's JSON; -1 where it cannot be told.

    Writing the value again and counting in C is far cheaper than walking through it.
    """
    try:
        return _count_keys(orjson.dumps(value))
    except TypeError:
        # Nested deeper than orjson writes.
        return -1


def _find_losses(
    fields: Mapping[str, object], text: bytes, place: Place
) -> tuple[Mapping[str, object] | None, list[Finding]]:
    """A finding for every key that stands twice in one object, and for integers of more than 64 bits.

    The exact and slow look. Such an integer became the nearest float, so that there are no fields to give.
    """
    repeated: list[str] = []
    rounded: list[str] = []

    def take_pairs(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    def take_integer(digits: str) -> None:
        # Python refuses to read numbers of thousands of digits.
        if len(digits) > _SAFE_DIGITS and (len(digits) > _MOST_DIGITS or not _LEAST <= int(digits) <= _GREATEST):
            rounded.append(digits)

    try:
        json.loads(text, object_pairs_hook=take_pairs, parse_int=take_integer, parse_float=str)
    except RecursionError:
        return fields, [Finding("json-syntax", place.file, place.line, "objects are nested too deeply")]
    said = [
        ("json-duplicate-key", f"the key {shorten(key)!r} stands twice in one object")
        for key in dict.fromkeys(repeated)
    ]
    said += [
        ("json-syntax", f"the number {shorten(digits)} has more than 64 bits and would be rounded: write it as a text")
        for digits in dict.fromkeys(rounded)
    ]
    return None if rounded else fields, [Finding(code, place.file, place.line, words) for code, words in said]


def describe_fault(text: bytes, place: Place, error: orjson.JSONDecodeError) -> list[Finding]:
    """Why a text is not JSON: its encoding, half a surrogate pair, or its syntax."""
    if find_bad_byte(text) is not None:
        return describe_bad_bytes(place.file, place.line, place.offset, text)
    code = "json-surrogate" if "surrogate" in error.msg else "json-syntax"
    closing = find_closing(text)
    lines = text.decode().split("\n")
    line = min(error.lineno, len(lines))
    # The parser says of a line that ends too early only that it does.
    fault = f"`{closing}` is missing at its end" if closing else error.msg
    said = f"{fault} (column {error.colno}): {shorten(lines[line - 1].strip())}"
    return [Finding(code, place.file, place.line + line - 1, said)]


def shorten(text: str, limit: int = 60) -> str:
    """The beginning of a long text, for a message of one line."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
