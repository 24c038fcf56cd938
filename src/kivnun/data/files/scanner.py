"""A pull parser that finds where the values of a large JSON text begin and end; orjson reads the values themselves.

It holds one value at a time, and knows the line and the offset of each.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_VALUE_BYTES = 256 << 20
_SPACE = re.compile(rb"[ \t\r\n]*")
# A string ends at its quote. A line break ends it too, for no string has one: a missing quote then spoils one line.
_STRING = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+["\n]'
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
_UP_TO_BRACKET = re.compile(rb"(?:" + _STRING + rb'|[^"{}\[\]]++)*+[{}\[\]]', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,:\[\]{}\"]+")
_OPENING, _CLOSING = frozenset(b"{["), frozenset(b"}]")


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a JSON text and where it begins."""

    text: bytes
    line: int
    offset: int


class JsonFaultError(Exception):
    """A text that is no JSON any more, so that nothing behind this line can be found.

    Attributes:
        line: Where.
        message: What was expected there.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"{line}: {message}")
        self.line = line
        self.message = message


class JsonScanner:
    """A place in a JSON text that moves forward.

    Attributes:
        line: The line of the place, from 1.
        offset: Bytes before the place.
        faults: Faults that could be stepped over: line and message.
    """

    def __init__(self, chunks: Iterator[bytes], line: int = 1, offset: int = 0) -> None:
        self.line = line
        self.offset = offset
        self.faults: list[tuple[int, str]] = []
        self._chunks = chunks
        self._data = b""
        self._place = 0

    def peek(self) -> bytes:
        """The next byte that is no white space, where the place then is; b"" at the end."""
        while True:
            space = _SPACE.match(self._data, self._place)
            self._move(space.end() if space else self._place)
            if self._place < len(self._data):
                return self._data[self._place : self._place + 1]
            if not self._read_more():
                return b""

    def peek_inside(self) -> bytes:
        """The first byte of the first element of the array that begins here; b"" if none does. The place stays."""
        if self.peek() != b"[":
            return b""
        while True:
            space = _SPACE.match(self._data, self._place + 1)
            end = space.end() if space else self._place + 1
            if end < len(self._data) or not self._read_more():
                return self._data[end : end + 1]

    def skip(self, expected: bytes) -> None:
        """Step over one sign.

        Raises:
            JsonFaultError: If another one stands there.
        """
        found = self.peek()
        if found != expected:
            raise JsonFaultError(self.line, f"expected {expected.decode()} but found {_name(found)}")
        self._move(self._place + 1)

    def take_value(self) -> Value:
        """The whole value that begins here.

        Raises:
            JsonFaultError: If none begins here, or it never ends.
        """
        start = self.peek()
        line, offset = self.line, self.offset
        if start in (b"{", b"[", b'"'):
            size = self._find_end(start)
        else:
            size = self._find_scalar_end()
            if not size:
                raise JsonFaultError(line, f"expected a value but found {_name(start)}")
        text = self._data[self._place : self._place + size]
        self._move(self._place + size)
        return Value(text, line, offset)

    def elements(self) -> Iterator[None]:
        """Step through the array that begins here: the place is before an element each time, which must be taken.

        Raises:
            JsonFaultError: If the array cannot be followed to its end.
        """
        self.skip(b"[")
        if self.peek() == b"]":
            return self.skip(b"]")
        while True:
            yield
            sign = self.peek()
            if sign == b"]":
                return self.skip(b"]")
            if sign in (b"{", b"["):
                self.faults.append((self.line, "a comma is missing before this element"))
                continue
            line = self.line
            self.skip(b",")
            if self.peek() == b"]":
                self.faults.append((line, "a comma stands before the ] that ends the array"))
                return self.skip(b"]")

    def entries(self) -> Iterator[bytes]:
        """Step through the object that begins here: its keys as they are written; the place is before the value.

        Raises:
            JsonFaultError: If the object cannot be followed to its end.
        """
        self.skip(b"{")
        if self.peek() == b"}":
            return self.skip(b"}")
        while True:
            key = self.take_value().text
            self.skip(b":")
            yield key
            if self.peek() == b"}":
                return self.skip(b"}")
            self.skip(b",")

    def _find_end(self, start: bytes) -> int:
        """Number of bytes from the place to the end of the string, object or array that begins there."""
        line, place, depth = self.line, self._place, 0
        step = _WHOLE_STRING if start == b'"' else _UP_TO_BRACKET
        while True:
            while token := step.match(self._data, place):
                place = token.end()
                sign = self._data[place - 1]
                depth += 1 if sign in _OPENING else -1 if sign in _CLOSING else 0
                if depth == 0:
                    return place - self._place
            size = place - self._place
            if len(self._data) - self._place > MAX_VALUE_BYTES:
                raise JsonFaultError(line, f"a value is longer than {MAX_VALUE_BYTES >> 20} MiB")
            if not self._read_more():
                raise JsonFaultError(line, "what begins here never ends")
            place = self._place + size

    def _find_scalar_end(self) -> int:
        while True:
            found = _SCALAR.match(self._data, self._place)
            size = found.end() - self._place if found else 0
            if self._place + size < len(self._data) or not self._read_more():
                return size

    def _move(self, place: int) -> None:
        self.line += self._data.count(b"\n", self._place, place)
        self.offset += place - self._place
        self._place = place

    def _read_more(self) -> bool:
        """Read as much again as is waiting, so that a long value is looked at only a few times."""
        parts = [self._data[self._place :]]
        wanted, size = len(parts[0]), 0
        for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if chunk and size >= wanted:
                break
        self._data, self._place = b"".join(parts), 0
        return size > 0


def _name(sign: bytes) -> str:
    return sign.decode("latin-1") if sign else "the end of the file"
