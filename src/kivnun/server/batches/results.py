"""What was answered of a batch: a line for each request, on the disk before anybody counts it.

    batches/batch_…/output.jsonl   requests that were answered
    batches/batch_…/errors.jsonl   requests that were refused

Whoever is killed here leaves whole lines and at most one that is cut; that one is removed, and its request is asked
again. So every request has one line in one of the two files, whatever happens.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kivnun.database.identifiers import new_id
from kivnun.database.tables import Batch
from kivnun.runs.atomic import sync_folder

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
NAMES = (OUTPUT, ERRORS)


@dataclass
class BatchUsage:
    """Tokens that the answers of a batch took.

    Attributes:
        input_tokens: Of the prompts.
        cached_tokens: Of these, those whose beginnings were computed before.
        output_tokens: Of the answers.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def add(self, usage: Mapping[str, Any]) -> None:
        """Count an answer.

        Args:
            usage: As the answer told it.
        """
        self.input_tokens += usage.get("prompt_tokens", 0)
        self.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        self.output_tokens += usage.get("completion_tokens", 0)

    def to_json(self) -> dict[str, Any]:
        """The `usage` of a batch, as clients see it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            # No model here tells its reasoning apart.
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


@dataclass
class BatchResults:
    """The lines that a batch has so far; safe to use from several threads.

    Attributes:
        folder: Of the batch.
        answered: The requests that have a line, by file.
        usage: Of the answers together.
    """

    folder: Path
    answered: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    usage: BatchUsage = field(default_factory=BatchUsage)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_closed: bool = False

    @property
    def num_completed(self) -> int:
        """Requests that were answered."""
        return len(self.answered[OUTPUT])

    @property
    def num_failed(self) -> int:
        """Requests that were refused."""
        return len(self.answered[ERRORS])

    def has(self, custom_id: str) -> bool:
        """Whether a request has its line.

        Args:
            custom_id: Its name.
        """
        return any(custom_id in names for names in self.answered.values())

    def add(self, custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None = None) -> None:
        """Write a request's line, on the disk when this returns.

        Args:
            custom_id: Its name.
            response: `status_code`, `request_id` and `body`; None where it was never asked.
            error: Why not.
        """
        name = OUTPUT if response is not None and response["status_code"] == 200 else ERRORS
        line = {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": error}
        with self._lock:
            if self._is_closed or self.has(custom_id):
                return
            with (self.folder / name).open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.count(name, line)

    def tell(self, batch: Batch) -> None:
        """Write down how far the batch is.

        Args:
            batch: Its row, in an open transaction.
        """
        batch.num_completed, batch.num_failed = self.num_completed, self.num_failed
        batch.usage = self.usage.to_json()

    def close(self) -> None:
        """Take no further lines: a thread whose request was given up may still come with one."""
        with self._lock:
            self._is_closed = True

    def count(self, name: str, line: Mapping[str, Any]) -> None:
        """Count a line that is on the disk.

        Args:
            name: Of its file.
            line: The line.
        """
        self.answered[name].add(line["custom_id"])
        if name == OUTPUT:
            self.usage.add(line["response"]["body"].get("usage") or {})


def open_results(folder: Path) -> BatchResults:
    """The lines of a batch, without one that a kill cut off.

    Args:
        folder: Of the batch; it is made if it is not there.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    results = BatchResults(folder)
    for name in NAMES:
        path = folder / name
        if not path.exists():
            path.touch(mode=0o600)
            sync_folder(folder)
        results.answered[name] = set()
        for line in _read_lines(path):
            results.count(name, line)
    return results


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines; at the end, a last one that was cut is taken off."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield orjson.loads(line)
    if path.stat().st_size > end:
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
