"""A YAML 1.2 text as plain values, with the line of every field."""

# ruamel.yaml has no types: its nodes and marks are made plain in this file and go no further.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Path: TypeAlias = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_KINDS = frozenset({"null", "bool", "int", "float", "str", "timestamp", "value", "merge", "map", "seq"})
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
_TOO_MANY = "the values are nested too deeply or are too many"


class MalformedDocumentError(Exception):
    """A text that is not YAML, with the line where reading stopped."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


@dataclass(frozen=True)
class Document:
    """What a YAML text says."""

    value: Value
    """The plain value; keys are text."""
    lines: dict[Path, int]
    """The line, from 1, of every field and list item; the root is the empty path."""
    problems: list[tuple[int, Path, str]] = field(default_factory=lambda: [])
    """Lines, fields and descriptions of what is readable but refused, such as a key that stands twice."""


def read_document(text: str) -> Document:
    """Read a YAML text.

    Raises:
        MalformedDocumentError: When the text is not YAML.
    """
    try:
        root = cast("Node | None", YAML(typ="safe", pure=True).compose(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f"{error.context}: " if error.context else ""
        raise MalformedDocumentError(f"{context}{error.problem}", mark.line + 1 if mark else 1) from error
    except RecursionError as error:
        # The parser calls itself for every level, and where it gave up it cannot say.
        raise MalformedDocumentError(_TOO_MANY, 1) from error
    except YAMLError as error:
        position = getattr(error, "position", 0)
        problem = f"a control character stands at offset {position}"
        raise MalformedDocumentError(problem, text.count("\n", 0, position) + 1) from error
    document = Document(value=None, lines={(): 1})
    if root is None:
        return document
    return Document(_Reader(document).read(root, (), 0), document.lines, document.problems)


class _Reader:
    """Walks the node tree once, filling in lines and problems."""

    def __init__(self, document: Document) -> None:
        self._lines = document.lines
        self._problems = document.problems
        self._num_values = 0

    def read(self, node: Node, path: Path, depth: int) -> Value:
        """The plain value of a node; notes what it meets on the way."""
        self._num_values += 1
        if depth > _MAX_DEPTH or self._num_values > _MAX_VALUES:
            # Aliases can make a small text endless.
            raise MalformedDocumentError(_TOO_MANY, _line(node))
        if str(node.tag).removeprefix(_TAG) not in _KINDS:
            self._problems.append((_line(node), path, f"a tag ({node.tag}) has no meaning in a recipe"))
        if isinstance(node, MappingNode):
            return self._read_mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return self._read_sequence(node, path, depth)
        return self._read_scalar(node, path)

    def _read_mapping(self, node: MappingNode, path: Path, depth: int) -> Value:
        mapping: dict[str, Value] = {}
        for key_node, value_node in _pairs(node):
            if not isinstance(key_node, ScalarNode):
                self._problems.append((_line(key_node), path, "a field name should be plain text"))
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in mapping:
                text = f"stands twice; the first is on line {self._lines[here]}"
                self._problems.append((_line(key_node), here, text))
                continue
            self._lines[here] = _line(key_node)
            mapping[key] = self.read(value_node, here, depth + 1)
        return mapping

    def _read_sequence(self, node: SequenceNode, path: Path, depth: int) -> Value:
        items: list[Value] = []
        for index, item in enumerate(cast("list[Node]", node.value)):
            here = (*path, index)
            self._lines[here] = _line(item)
            items.append(self.read(item, here, depth + 1))
        return items

    def _read_scalar(self, node: Node, path: Path) -> Value:
        text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return _read_int(text)
        if kind == "float":
            return _read_float(text)
        # Dates and the like have no field that wants them: they are text.
        return text


def _pairs(node: MappingNode) -> Iterator[tuple[Node, Node]]:
    yield from cast("list[tuple[Node, Node]]", node.value)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1 if node.start_mark is not None else 1


def _read_int(text: str) -> int | str:
    digits = text.replace("_", "").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2], 10)
    try:
        return int(digits, base)
    except ValueError:
        return text


def _read_float(text: str) -> float | str:
    plain = text.replace("_", "").lower()
    if plain.endswith(".nan"):
        return math.nan
    try:
        return float(plain.replace(".inf", "inf"))
    except ValueError:
        return text
