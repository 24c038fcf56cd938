"""Two models' answers to the same rows, side by side, for people and models that say which is better."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from kivnun.errors import UserError

# Read here without `folder.py`, which loads what evaluates models: people wait for the first pair.
ABOUT_FILE, ROWS_FILE, SCORES_FILE = "evaluation.json", "rows.jsonl", "scores.json"
MAX_DETAILS = 5

Side = Literal["a", "b"]


@dataclass(frozen=True)
class AnswerPair:
    """One row with the answers of both models.

    Attributes:
        row_id: The row's identity.
        where: File and line that it comes from.
        prompt: What was asked.
        references: Right answers; empty where nobody wrote one.
        a: The first model's answer.
        b: The second model's.
    """

    row_id: str
    where: str
    prompt: str
    references: tuple[str, ...]
    a: str
    b: str

    @property
    def digest(self) -> str:
        """What a judgement of this pair is a judgement of: the prompt and both answers."""
        return hashlib.sha256(json.dumps([self.prompt, self.a, self.b]).encode()).hexdigest()[:32]

    @property
    def is_same(self) -> bool:
        """Whether both answered alike, so that there is nothing to choose."""
        return self.a.strip() == self.b.strip()


@dataclass(frozen=True)
class PairedAnswers:
    """All rows of two evaluations.

    Attributes:
        names: What the two are called.
        different: Rows with two answers to choose from, in the order of the rows.
        same: Identities of the rows on which both answered alike; nobody is asked about them.
        identities: What the two models' answers depend on; None where the evaluation does not say it.
    """

    names: tuple[str, str]
    different: tuple[AnswerPair, ...]
    same: tuple[str, ...]
    identities: tuple[str | None, str | None] = (None, None)

    @property
    def num_same(self) -> int:
        """How many rows both answered alike."""
        return len(self.same)


@dataclass(frozen=True)
class AnsweredRow:
    """One row of one evaluation."""

    row_id: str
    where: str
    prompt: str
    references: tuple[str, ...]
    answer: str


Row = TypeVar("Row", AnswerPair, AnsweredRow)


def comparison_folder(a: Path, b: Path) -> Path:
    """Where everything about two evaluations is kept if no other folder is named: `comparisons/<A>-vs-<B>`.

    Args:
        a: Folder of the first evaluation.
        b: Folder of the second.

    Raises:
        UserError: `evaluation-invalid` where both are one folder.
    """
    first, second = names_of(a, b)
    return Path("comparisons") / f"{first}-vs-{second}"


def names_of(a: Path, b: Path) -> tuple[str, str]:
    """The shortest ends of two paths that differ, joined by dashes.

    Args:
        a: Folder of the first evaluation.
        b: Folder of the second.

    Raises:
        UserError: `evaluation-invalid` where both are one folder.
    """
    first, second = _parts(a), _parts(b)
    for length in range(1, max(len(first), len(second)) + 1):
        if first[-length:] != second[-length:]:
            return "-".join(first[-length:]), "-".join(second[-length:])
    raise UserError(
        "evaluation-invalid", f"{a} and {b} are the same folder", hint="name the evaluations of two different models"
    )


def _parts(folder: Path) -> list[str]:
    return [part for part in folder.resolve().parts if part != "/"]


def read_pairs(a: Path, b: Path) -> PairedAnswers:
    """Read two evaluations of the same rows.

    Args:
        a: Folder of the first evaluation.
        b: Folder of the second.

    Raises:
        UserError: `evaluation-invalid` where a folder holds no readable evaluation; `rows-differ` where their rows do.
    """
    names = names_of(a, b)
    first, second = read_answers(a), read_answers(b)
    _require_same_rows(names, first, second)
    by_id = {row.row_id: row.answer for row in second}
    pairs = [
        AnswerPair(row.row_id, row.where, row.prompt, row.references, row.answer, by_id[row.row_id]) for row in first
    ]
    different = tuple(pair for pair in pairs if not pair.is_same)
    same = tuple(pair.row_id for pair in pairs if pair.is_same)
    return PairedAnswers(names, different, same, (_read_identity(a), _read_identity(b)))


def _read_identity(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / ABOUT_FILE).read_bytes())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        # Rows that other programs wrote come without it, and can be judged all the same.
        return None


def read_answers(folder: Path) -> tuple[AnsweredRow, ...]:
    """The rows of one evaluation.

    Args:
        folder: Its folder.

    Raises:
        UserError: `evaluation-invalid`.
    """
    path = folder / ROWS_FILE
    if (folder / ABOUT_FILE).is_file() and not (folder / SCORES_FILE).is_file():
        raise UserError(
            "evaluation-invalid",
            f"the evaluation in {folder} did not come to its end",
            hint="give its `kivnun evaluate` command again; it goes on from where it was",
        )
    hint = f"evaluate first: kivnun evaluate writes {ROWS_FILE} into the folder of an evaluation"
    try:
        # Not `splitlines`, which also parts at U+2028 and its like; in JSON these may stand inside a text.
        lines = path.read_text("utf-8").rstrip("\n").split("\n") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("evaluation-invalid", f"{path} cannot be read: {error}", hint=hint) from error
    if not lines or lines == [""]:
        problem = f"{folder} holds no evaluation: {ROWS_FILE} is not there" if lines is None else f"{path} is empty"
        raise UserError("evaluation-invalid", problem, hint=hint)
    rows = tuple(_read_row(line, f"{path}:{number}", hint) for number, line in enumerate(lines, start=1))
    if len({row.row_id for row in rows}) < len(rows):
        raise UserError("evaluation-invalid", f"{path} holds the same row_id twice", hint=hint)
    return rows


def _read_row(line: str, place: str, hint: str) -> AnsweredRow:
    try:
        value = json.loads(line)
        references = tuple(map(str, value.get("references", ())))
        texts = [value[name] for name in ("row_id", "prompt", "answer")]
        row_id, prompt, answer = map(str, texts)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError("evaluation-invalid", f"{place} is no evaluated row: {error!r}", hint=hint) from error
    return AnsweredRow(row_id, str(value.get("where", "")), prompt, references, answer)


def _require_same_rows(names: tuple[str, str], first: Sequence[AnsweredRow], second: Sequence[AnsweredRow]) -> None:
    here, there = ({row.row_id: (row.prompt, row.references) for row in rows} for rows in (first, second))
    details = [f"only in {names[0]}: row {row_id}" for row_id in here if row_id not in there]
    details += [f"only in {names[1]}: row {row_id}" for row_id in there if row_id not in here]
    details += [
        f"row {row_id}: prompt or references differ"
        for row_id in here
        if here[row_id] != there.get(row_id, here[row_id])
    ]
    if details:
        more = [f"and {len(details) - MAX_DETAILS:,} more"] if len(details) > MAX_DETAILS else []
        raise UserError(
            "rows-differ",
            f"{names[0]} and {names[1]} were not asked the same rows",
            hint="evaluate both models on the same file of rows, and compare those folders",
            details=[*details[:MAX_DETAILS], *more],
        )


def require_different(pairs: PairedAnswers) -> None:
    """Refuse two evaluations between which there is nothing to choose.

    Args:
        pairs: The answers.

    Raises:
        UserError: `evaluation-invalid`.
    """
    if not pairs.different:
        raise UserError(
            "evaluation-invalid",
            f"{pairs.names[0]} and {pairs.names[1]} give the same answer to each of {pairs.num_same:,} rows",
            hint="there is nothing to choose between; compare models that answer differently",
        )


def chosen_rows(rows: Sequence[Row], number: int | None, *, seed: int) -> tuple[Row, ...]:
    """Rows in an order drawn by the seed, the same for every rater and judge; more rows only add to fewer.

    Args:
        rows: The rows.
        number: How many; None for all.
        seed: Of the order.
    """
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.row_id}".encode()).digest())
    return tuple(ordered[:number])


def require_same_answers(found: Mapping[str, str], pairs: PairedAnswers, what: str) -> None:
    """Refuse judgements of answers that are not there any more.

    Args:
        found: Digest of the judged pair by row_id.
        pairs: What is there.
        what: Whose judgements they are, for the message.

    Raises:
        UserError: `ratings-invalid`.
    """
    digests = {pair.row_id: pair.digest for pair in pairs.different}
    other = [row_id for row_id, digest in found.items() if digests.get(row_id) != digest]
    if other:
        raise UserError(
            "ratings-invalid",
            f"{len(other):,} of {len(found):,} judgements in {what} are of other answers than those compared now",
            hint="compare the answers that were rated, or name another folder with --out to rate these",
            details=[f"row {row_id}" for row_id in other[:MAX_DETAILS]],
        )
