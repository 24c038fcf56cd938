"""Calls of functions read out of an answer while it comes: what is text, which function is called, its arguments."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kivnun.server.chat.call_form import CallForm
from kivnun.serving.stops import num_begun

_SPACES_AT_END = re.compile(r"\s*\Z")


@dataclass(frozen=True)
class CallPart:
    """A part of a call.

    Attributes:
        number: Which call of the answer, from 0.
        name: The function, told once, when the call begins.
        arguments: More of its arguments' JSON text.
    """

    number: int
    name: str | None
    arguments: str


@dataclass
class JsonEnd:
    """Finds where a JSON object ends that comes in pieces."""

    _depth: int = field(default=0, init=False)
    _in_string: bool = field(default=False, init=False)
    _escaped: bool = field(default=False, init=False)

    def find(self, text: str) -> int | None:
        """How many characters of a text belong to the object, if it ends there; None if it goes on.

        Args:
            text: What comes next.
        """
        for place, sign in enumerate(text):
            if self._in_string:
                self._read_in_string(sign)
                continue
            self._in_string = sign == '"'
            self._depth += (sign in "{[") - (sign in "}]")
            if self._depth == 0 and sign in "}]":
                return place + 1
        return None

    def _read_in_string(self, sign: str) -> None:
        if self._escaped:
            self._escaped = False
        elif sign == "\\":
            self._escaped = True
        else:
            self._in_string = sign != '"'


@dataclass
class CallReader:
    """Reads an answer that a grammar of `call_grammar` allowed, piece by piece.

    Attributes:
        form: Of the model's template.
        mode: Whether the answer may be text, or is calls alone.
    """

    form: CallForm
    mode: Literal["auto", "required"]
    num_calls: int = field(default=0, init=False)
    _state: Literal["text", "head", "arguments"] = field(default="text", init=False)
    _held: str = field(default="", init=False)
    _end: JsonEnd = field(default_factory=JsonEnd, init=False)
    _any_text: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.mode == "required":
            self._state = "head"

    def push(self, text: str) -> Sequence[str | CallPart]:
        """Texts and parts of calls that may go out.

        Args:
            text: What comes next.
        """
        self._held += text
        told: list[str | CallPart] = []
        # Each state either takes something off what is held, or waits for more.
        while True:
            before = (self._state, len(self._held))
            told += self._read()
            if before == (self._state, len(self._held)):
                return told

    def end(self) -> Sequence[str | CallPart]:
        """The rest, after the last piece; what is no whole call by now is none."""
        held, self._held = self._held, ""
        return [held] if self._state == "text" and held else []

    def _read(self) -> Iterator[str | CallPart]:
        if self._state == "text":
            text = self._read_text()
            if text:
                yield text
        elif self._state == "head":
            name = self._read_head()
            if name is not None:
                yield CallPart(self.num_calls - 1, name, "")
        elif self._held:
            end = self._end.find(self._held)
            told = self._held[:end]
            self._held = self._held[len(told) :]
            if end is not None:
                self._state = "head"
            yield CallPart(self.num_calls - 1, None, told)

    def _read_text(self) -> str:
        sign = self.form.sign
        if not sign:
            return self._read_first()
        at = self._held.find(sign)
        if at >= 0:
            # What stands between text and call is no part of the text.
            text, self._held, self._state = self._held[:at].rstrip(), self._held[at:], "head"
            return text
        free = self._held[: len(self._held) - num_begun(self._held, (sign,))]
        spaces = _SPACES_AT_END.search(free)
        text = free[: spaces.start()] if spaces else free
        self._held = self._held[len(text) :]
        return text

    def _read_first(self) -> str:
        """Without a sign, the first letters of the answer tell whether it is a call."""
        opening = self.form.after_sign
        if not self._any_text and self._held.startswith(opening):
            self._state = "head"
            return ""
        if not self._any_text and opening.startswith(self._held):
            return ""
        text, self._held = self._held, ""
        self._any_text = self._any_text or bool(text)
        return text

    def _read_head(self) -> str | None:
        opened = self._held.find(self.form.opening)
        if opened < 0:
            return None
        start = opened + len(self.form.opening)
        stop = self._held.find(self.form.middle, start)
        if stop < 0:
            return None
        name, self._held = self._held[start:stop], self._held[stop + len(self.form.middle) :]
        self._state, self._end = "arguments", JsonEnd()
        self.num_calls += 1
        return name
