"""What people said about pairs of answers: files that are only added to, and the order in which a rater is asked.

Each line of `ratings-<rater>.jsonl` is on the disk before the next row is shown, so that a kill loses nothing. Taking
a rating back adds a line too. Which answer stands on the left is drawn for each row and rater, and kept beside it.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from kivnun.assessment.pairs import AnswerPair, PairedAnswers, Side, require_same_answers
from kivnun.errors import UserError
from kivnun.runs.atomic import disk_full_as_user_error, sync_folder
from kivnun.runs.manifest import now

Choice = Literal["a", "b", "both_good", "both_bad", "skip"]
Pressed = Literal["left", "right", "both_good", "both_bad", "skip"]
PRESSED: tuple[Pressed, ...] = get_args(Pressed)
CHOICES: tuple[Choice, ...] = get_args(Choice)
SIDES: tuple[Side, ...] = get_args(Side)
UNDO = "undo"

PREFIX, SUFFIX = "ratings-", ".jsonl"
RATER_NAME = re.compile(r"\w[\w .@+-]{0,39}")


@dataclass(frozen=True)
class Rating:
    """What one rater said about one row.

    Attributes:
        row_id: The row.
        digest: Of the pair of answers that was shown.
        choice: Which answer is better, whatever side it stood on.
        left: Which answer stood on the left.
        seed: That the order of rows and sides was drawn with.
        time: When it was given.
    """

    row_id: str
    digest: str
    choice: Choice
    left: Side
    seed: int
    time: str

    @property
    def is_left(self) -> bool:
        """Whether the answer on the left was chosen."""
        return self.choice == self.left


@dataclass(frozen=True)
class ShownPair:
    """A row as a rater sees it: nothing in it tells whose answer stands where.

    Attributes:
        row_id: The row.
        prompt: What was asked.
        references: Right answers that somebody wrote.
        left: The answer on the left.
        right: The answer on the right.
    """

    row_id: str
    prompt: str
    references: tuple[str, ...]
    left: str
    right: str


def require_rater_name(name: str) -> str:
    """A rater's name in the one form in which it names a file.

    Args:
        name: As it was given.

    Raises:
        UserError: `ratings-invalid`.
    """
    plain = unicodedata.normalize("NFC", name).strip()
    if not RATER_NAME.fullmatch(plain):
        raise UserError(
            "ratings-invalid",
            f"{name!r} cannot be a rater's name",
            hint="use up to 40 letters, digits, spaces and . _ @ + -, beginning with a letter or digit",
        )
    return plain


def ratings_file(folder: Path, rater: str) -> Path:
    """Where a rater's ratings are kept.

    Args:
        folder: Of the comparison.
        rater: A name that `require_rater_name` let through.
    """
    return folder / f"{PREFIX}{rater}{SUFFIX}"


def read_all_ratings(folder: Path) -> dict[str, list[Rating]]:
    """The ratings that hold, by rater; raters who took all of theirs back are left out.

    Args:
        folder: Of the comparison.

    Raises:
        UserError: `ratings-invalid` where a file cannot be read.
    """
    files = sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
    found = {path.name.removeprefix(PREFIX).removesuffix(SUFFIX): read_ratings(path) for path in files}
    return {rater: ratings for rater, ratings in found.items() if ratings}


def require_current_ratings(folder: Path, pairs: PairedAnswers) -> None:
    """Refuse a folder whose ratings are of other answers than those that are there now.

    Args:
        folder: Of the comparison.
        pairs: The answers.

    Raises:
        UserError: `ratings-invalid`.
    """
    for rater, ratings in read_all_ratings(folder).items():
        found = {rating.row_id: rating.digest for rating in ratings}
        require_same_answers(found, pairs, str(ratings_file(folder, rater)))


def read_ratings(path: Path) -> list[Rating]:
    """One rater's ratings that hold, in the order in which they were given.

    Args:
        path: The file; its last line may have been cut off by a crash, and then was never acknowledged.

    Raises:
        UserError: `ratings-invalid`.
    """
    held: dict[str, Rating] = {}
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            row_id = str(value["row_id"])
            # A row that is rated again stands at the end, so that an undo takes back the latest.
            held.pop(row_id, None)
            if value["choice"] != UNDO:
                held[row_id] = _read_rating(value)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "ratings-invalid",
                f"{path}:{number} is no rating: {error!r}",
                hint="mend or remove that line; each one is a JSON object as `kivnun rate` writes it",
            ) from error
    return list(held.values())


def _read_rating(value: dict[str, Any]) -> Rating:
    rating = Rating(
        row_id=str(value["row_id"]),
        digest=str(value["digest"]),
        choice=value["choice"],
        left=value["left"],
        seed=int(value["seed"]),
        time=str(value["time"]),
    )
    if rating.choice not in CHOICES or rating.left not in SIDES:
        raise ValueError(f"choice {rating.choice!r}, left {rating.left!r}")
    return rating


def side_on_the_left(row_id: str, rater: str, *, seed: int) -> Side:
    """Which answer a rater sees on the left: drawn for each row and rater, the same each time.

    Args:
        row_id: The row.
        rater: The rater's name.
        seed: Of the draw.
    """
    drawn = hashlib.sha256(f"{seed}:{rater}:{row_id}".encode("utf-8", "surrogatepass")).digest()[0]
    return "a" if drawn % 2 else "b"


class RatingSession:
    """One rater at work: what is asked next, and what was said. It may be used from several threads.

    Args:
        folder: Of the comparison; it is made where it is not there.
        rater: The rater's name.
        pairs: The rows in the order in which they are asked.
        seed: That order and sides are drawn with.
        clock: Gives the time of a rating.

    Raises:
        UserError: `ratings-invalid` where the name is none, another process writes the same file, or it cannot be read;
            `disk-full`.
    """

    def __init__(
        self, folder: Path, rater: str, pairs: Sequence[AnswerPair], *, seed: int, clock: Callable[[], str] = now
    ) -> None:
        self.rater = require_rater_name(rater)
        self.path = ratings_file(folder, self.rater)
        self._pairs = tuple(pairs)
        self._seed, self._clock, self._lock = seed, clock, threading.Lock()
        with disk_full_as_user_error(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        try:
            self._require_alone()
            _cut_torn_line(self.path)
            self._held = {rating.row_id: rating for rating in read_ratings(self.path)}
        except BaseException:
            self._file.close()
            raise
        sync_folder(folder)

    def _require_alone(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "ratings-invalid",
                f"{self.rater} is rating these answers in another process",
                hint="end that one first, or rate under another name with --rater",
            ) from error

    @property
    def progress(self) -> tuple[int, int]:
        """How many of the rows are rated or skipped, and how many there are."""
        with self._lock:
            return sum(pair.row_id in self._held for pair in self._pairs), len(self._pairs)

    def next_pair(self) -> ShownPair | None:
        """What to ask now; None once every row is rated."""
        with self._lock:
            pair = self._next()
            if pair is None:
                return None
            is_a = self._left(pair) == "a"
            left, right = (pair.a, pair.b) if is_a else (pair.b, pair.a)
            return ShownPair(pair.row_id, pair.prompt, pair.references, left, right)

    def rate(self, row_id: str, pressed: Pressed) -> bool:
        """Keep what a rater said about the row that is asked now.

        Args:
            row_id: The row that was shown.
            pressed: What was said.

        Returns:
            Whether it was kept; not where another row is asked by now, as when two windows show the same one.

        Raises:
            UserError: `disk-full`.
        """
        with self._lock:
            pair = self._next()
            if pair is None or pair.row_id != row_id:
                return False
            left = self._left(pair)
            choice = _choice_of(pressed, left)
            rating = Rating(pair.row_id, pair.digest, choice, left, self._seed, self._clock())
            self._append(asdict(rating))
            self._held[pair.row_id] = rating
            return True

    def undo(self) -> bool:
        """Take the latest rating of the rows that are asked back.

        Returns:
            Whether there was one.

        Raises:
            UserError: `disk-full`.
        """
        with self._lock:
            asked = {pair.row_id for pair in self._pairs}
            latest = next((row_id for row_id in reversed(self._held) if row_id in asked), None)
            if latest is None:
                return False
            self._append({"row_id": latest, "choice": UNDO, "time": self._clock()})
            del self._held[latest]
            return True

    def ratings(self) -> list[Rating]:
        """What is kept of this rater, earlier sessions included."""
        with self._lock:
            return list(self._held.values())

    def close(self) -> None:
        """Let the file go, once nobody writes."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self.close()

    def _next(self) -> AnswerPair | None:
        return next((pair for pair in self._pairs if pair.row_id not in self._held), None)

    def _left(self, pair: AnswerPair) -> Side:
        return side_on_the_left(pair.row_id, self.rater, seed=self._seed)

    def _append(self, line: dict[str, object]) -> None:
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        size = self.path.stat().st_size
        with disk_full_as_user_error(self.path):
            try:
                while data:
                    data = data[self._file.write(data) :]
                os.fsync(self._file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise


def _choice_of(pressed: Pressed, left: Side) -> Choice:
    if pressed == "left":
        return left
    if pressed == "right":
        return "b" if left == "a" else "a"
    return pressed


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a crash cut off, so that the next one does not grow out of it."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
