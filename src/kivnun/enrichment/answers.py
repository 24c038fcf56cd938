"""Answers that were paid for are kept: one line for each, written at once, found again by what was asked."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson


class AnswerFile:
    """A file of answers beside the output; a line that was cut by a crash is asked again.

    Args:
        path: The file; made when the first answer comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, str] = {}
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                try:
                    entry = orjson.loads(line)
                    self._known[entry["question"]] = entry["answer"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    continue
        self._stream = None

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._known)

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._stream is not None:
            self._stream.close()

    def find(self, question: str) -> str | None:
        """The answer to a question, by its key."""
        return self._known.get(question)

    def add(self, question: str, answer: str) -> None:
        """Keep an answer; it is on the disk when this returns."""
        if self._stream is None:
            self._stream = self.path.open("ab")
            # After a crash the last line may be half a one.
            self._stream.write(b"\n" if self._stream.tell() else b"")
        self._stream.write(orjson.dumps({"question": question, "answer": answer}) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._known[question] = answer


def question_key(writer: str, messages: Sequence[tuple[str, str]], temperature: float, seed: int) -> str:
    """What identifies a question: who is asked, the words, the temperature and the seed."""
    return hashlib.sha256(orjson.dumps([writer, [list(turn) for turn in messages], temperature, seed])).hexdigest()
