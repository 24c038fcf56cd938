"""What a JSON file holds, by how it begins: rows on lines, in an array, in an object, or in a known layout."""

from collections.abc import Mapping
from pathlib import Path

import orjson

from kivnun.data.files.arrays import ROW_KEYS
from kivnun.data.files.encoding import TextSource, ends_in_returns
from kivnun.data.files.scanner import JsonFaultError, JsonScanner

_START_BYTES = 1 << 20


def sniff_json(path: Path, named: str) -> tuple[str, str]:
    """The layout of a file whose name ends in .json or .jsonl, and why.

    Args:
        path: The file.
        named: The layout that its name says, which holds if the content says nothing else.
    """
    start = read_beginning(path)
    scanner = JsonScanner(iter([start]))
    sign = scanner.peek()
    if sign == b"[":
        if named == "jsonl" and not _is_one_array(start):
            return "jsonl", "JSONL by its name"
        return "json", "one JSON array" + (", though it is named JSONL" if named == "jsonl" else "")
    if sign != b"{":
        return named, f"{named.upper()} by its name"
    if named == "jsonl" or _has_object_lines(start):
        return "jsonl", "one object on each line" + (", though it is named JSON" if named == "json" else "")
    lists = _find_lists(start)
    layout = _find_known_layout(lists)
    if layout is None and lists.keys() & ROW_KEYS and _is_object(start.strip().partition(b"\n")[0]):
        layout = "jsonl", "one object on a line, a row"
    return layout or ("json", "JSON by its name")


def read_beginning(path: Path, size: int = _START_BYTES) -> bytes:
    """The beginning of a file as UTF-8, with line feeds; b"" where it cannot be read, which reading it then tells."""
    start = next(TextSource(path).chunks(size), b"")
    return start.replace(b"\r", b"\n") if ends_in_returns(start) else start


def find_no_rows(path: Path) -> str | None:
    """Why a JSON file, which `sniff_json` took for an array, holds no rows and may be about something else; or None."""
    start = read_beginning(path).lstrip()
    if start.startswith(b"{"):
        return "a JSON object without a list of rows"
    is_list = start.startswith(b"[") and start[1:].lstrip()[:1] not in (b"{", b"]", b"")
    return "a JSON list, but not of objects" if is_list else None


def _is_one_array(start: bytes) -> bool:
    """Whether one array of objects begins here, rather than a line that is an array by mistake."""
    first, _, rest = start.strip().partition(b"\n")
    is_line = not _find_first_keys(first) or (_is_json(first) and rest.strip())
    return not is_line or first == b"["


def _has_object_lines(start: bytes) -> bool:
    """Whether the first line is a whole object and the next one begins another."""
    first, _, rest = start.strip().partition(b"\n")
    return _is_object(first) and rest.lstrip().startswith(b"{")


def _is_object(text: bytes) -> bool:
    return text.startswith(b"{") and _is_json(text)


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _find_known_layout(lists: Mapping[str, set[str]]) -> tuple[str, str] | None:
    """The layout of an object by its first keys and what is in its lists, as far as its beginning shows them."""
    if {"Definition", "Positive Examples"} <= lists.keys() or {"Definition", "Instances"} <= lists.keys():
        return "super-ni", "a task of Super-NaturalInstructions, by its `Definition`"
    if "paragraphs" in lists.get("data", ()):
        return "squad", "SQuAD, by `data` and `paragraphs`"
    first = next(iter(lists), "")
    if lists.get(first) == {"data"}:
        return "snips", f"Snips, by the intent `{first}` and its `data`"
    rows = [key for key, inner in lists.items() if inner and key not in ROW_KEYS]
    # An object with messages is a row, whatever other lists it has.
    return ("json-object", f"the list of objects under `{rows[0]}`") if rows and not ROW_KEYS & lists.keys() else None


def _find_lists(start: bytes) -> dict[str, set[str]]:
    """Keys of an object, and of each that holds a list of objects the keys of the first of these."""
    found: dict[str, set[str]] = {}
    scanner = JsonScanner(iter([start]))
    try:
        for key in scanner.entries():
            is_list = scanner.peek() == b"["
            found[key.decode().strip('"')] = _find_first_keys(start[scanner.offset :]) if is_list else set()
            scanner.take_value()
    except (JsonFaultError, UnicodeDecodeError):
        # The beginning was looked at to its end.
        return found
    return found


def _find_first_keys(start: bytes) -> set[str]:
    """The keys of the first object of the list that begins here, as far as can be seen."""
    found: set[str] = set()
    scanner = JsonScanner(iter([start]))
    try:
        scanner.skip(b"[")
        for key in scanner.entries():
            found.add(key.decode().strip('"'))
            scanner.take_value()
    except (JsonFaultError, UnicodeDecodeError):
        return found
    return found
