"""One JSON text becomes an object, or findings that say exactly what is wrong with it and where."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson

from kivnun.data.files.encoding import describe_bad_bytes, find_bad_byte
from kivnun.data.findings import Finding


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
    return fields, [] if count_keys(text) == num_written else find_repeated_keys(text, place)


def count_keys(text: bytes) -> int:
    """How often something that looks like a key stands in a JSON text."""
    return text.count(b'":') + text.count(b'" :')


def count_written_keys(value: object) -> int:
    """What `count_keys` would count if every key stood once; -1 where it cannot be told.

    Writing the value again and counting in C is far cheaper than walking through it.
    """
    try:
        return count_keys(orjson.dumps(value))
    except TypeError:
        # Nested deeper than orjson writes.
        return -1


def find_repeated_keys(text: bytes, place: Place) -> list[Finding]:
    """A finding for every key that stands twice in one object: the exact and slow look."""
    repeated: list[str] = []

    def take_pairs(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    try:
        # Numbers stay texts: Python refuses to read those of thousands of digits.
        json.loads(text, object_pairs_hook=take_pairs, parse_int=str, parse_float=str)
    except RecursionError:
        return [Finding("json-syntax", place.file, place.line, "objects are nested too deeply")]
    return [
        Finding("json-duplicate-key", place.file, place.line, f"the key {shorten(key)!r} stands twice in one object")
        for key in dict.fromkeys(repeated)
    ]


def describe_fault(text: bytes, place: Place, error: orjson.JSONDecodeError) -> list[Finding]:
    """Why a text is not JSON: its encoding, half a surrogate pair, or its syntax."""
    if find_bad_byte(text) is not None:
        return describe_bad_bytes(place.file, place.line, place.offset, text)
    code = "json-surrogate" if "surrogate" in error.msg else "json-syntax"
    lines = text.decode().split("\n")
    line = min(error.lineno, len(lines))
    said = f"{error.msg} (column {error.colno}): {shorten(lines[line - 1].strip())}"
    return [Finding(code, place.file, place.line + line - 1, said)]


def shorten(text: str, limit: int = 60) -> str:
    """The beginning of a long text, for a message of one line."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
