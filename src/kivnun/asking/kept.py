"""Answers are kept as they come: what was answered once is never asked, nor paid for, again."""

import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from kivnun.asking.request import AskedModel, Log, Reply, Request
from kivnun.errors import UserError
from kivnun.runs.atomic import disk_full_as_user_error

BUSY_SECONDS = 60.0
_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply BLOB NOT NULL) WITHOUT ROWID"


class KeptAnswers:
    """A file of replies, found by who was asked what. Each is on the disk when `keep` returns; several may write.

    SQLite with a write-ahead log and full synchronisation: neither kill -9 nor a power cut loses what was kept.

    Args:
        path: The file; made if it is missing.

    Raises:
        UserError: `store-failed` where the file cannot be opened or is none of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            with disk_full_as_user_error(path):
                if str(path) != ":memory:":
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(
                    path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                "store-failed",
                f"{path} cannot be used to keep answers: {error}",
                hint="name another folder, or move this file away; answers in it are then asked again",
            ) from error

    @classmethod
    def in_memory(cls) -> Self:
        """Replies that last as long as this object."""
        return cls(Path(":memory:"))

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def num_replies(self) -> int:
        """Number of replies."""
        with self._lock:
            return int(self._database.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def find(self, key: str) -> Reply | None:
        """The reply that was kept under a key."""
        with self._lock:
            found = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if found is None else replace(Reply(**orjson.loads(found[0])), is_kept=True)

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply; the first one under a key stays.

        Args:
            key: Of `answer_key`.
            reply: What was answered.

        Raises:
            UserError: `disk-full`, or `store-failed`.
        """
        content = orjson.dumps(asdict(replace(reply, is_kept=False)))
        try:
            with self._lock, disk_full_as_user_error(self.path):
                self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, content))
        except sqlite3.Error as error:
            raise UserError(
                "store-failed",
                f"{self.path}: an answer cannot be kept: {error}",
                hint="see that the folder can be written to; earlier answers are kept",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def answer_key(identity: str, request: Request, max_new_tokens: int, *, purpose: str = "") -> str:
    """What identifies an answer: who is asked, the words and the longest answer.

    Args:
        identity: Of the model.
        request: What it is asked; which messages are shared changes no answer.
        max_new_tokens: Longest answer.
        purpose: Sets apart what is asked for another reason, such as to be timed.
    """
    parts = [identity, [list(turn) for turn in request.messages], request.text, max_new_tokens]
    return hashlib.sha256(orjson.dumps([*parts, purpose] if purpose else parts)).hexdigest()


def ask_all(
    model: AskedModel, requests: Sequence[Request], *, max_new_tokens: int, kept: KeptAnswers, log: Log
) -> list[Reply]:
    """The reply to every request, in their order; what was answered earlier is not asked, equal requests only once.

    Args:
        model: Who is asked.
        requests: What is asked.
        max_new_tokens: Longest answer.
        kept: Where replies are kept; each is when it comes.
        log: Takes `asked` after each reply.

    Raises:
        UserError: As for `AskedModel.ask`; what was answered stays kept, and the same call goes on from there.
    """
    keys = [answer_key(model.identity, request, max_new_tokens) for request in requests]
    found = {key: reply for key in dict.fromkeys(keys) if (reply := kept.find(key)) is not None}
    done = sum(key in found for key in keys)
    copies = Counter(keys)

    def tell() -> None:
        log("asked", {"model": model.name, "done": done, "num_requests": len(requests)})

    tell()
    open_keys = [key for key in dict.fromkeys(keys) if key not in found]
    by_key = dict(zip(keys, requests, strict=True))

    def keep(number: int, reply: Reply) -> None:
        nonlocal done
        key = open_keys[number]
        kept.keep(key, reply)
        found[key] = reply
        done += copies[key]
        tell()

    if open_keys:
        model.ask([by_key[key] for key in open_keys], max_new_tokens=max_new_tokens, keep=keep)
    missing = [key for key in open_keys if key not in found]
    if missing:
        raise RuntimeError(f"{model.name} left {len(missing)} of {len(open_keys)} requests without a reply")
    return [found[key] for key in keys]
