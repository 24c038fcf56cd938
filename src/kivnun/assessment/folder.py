"""The folder of an evaluation, which is a contract: what was asked of whom, every answer, every score.

evaluation.json   model, rows, settings and notes; `key` identifies them all
answers.sqlite    replies as they came, so that the same command goes on after an interruption
rows.jsonl        a line for each row: row_id, where, prompt, references, answer, scores, fields, tokens
scores.json       metrics with intervals, slices, tokens
report.html       the same for people
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kivnun.errors import UserError
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.scoring import RowScores, ScoredRow
from kivnun.evaluation.slices import SliceScore
from kivnun.runs.atomic import write_atomic

ABOUT_NAME, ANSWERS_NAME, ROWS_NAME = "evaluation.json", "answers.sqlite", "rows.jsonl"
SCORES_NAME, REPORT_NAME = "scores.json", "report.html"
FORMAT = 1


@dataclass(frozen=True)
class Usage:
    """What the answers took.

    Attributes:
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        cached_tokens: Tokens that a service had kept ready, of those that were read.
        written_tokens: Tokens that a service keeps from now on, of those that were read.
        num_refused: Requests that a service would not answer; they count as wrong.
        num_cut: Answers that ended at the longest length that was allowed.
        dollars: By the price table; None for a model of this machine and where no price is known.
        price_note: Where the price is from, or why there is none.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    num_refused: int = 0
    num_cut: int = 0
    dollars: float | None = None
    price_note: str = ""


@dataclass(frozen=True)
class AnsweredRow:
    """A row with its answer.

    Attributes:
        row: What was asked, and what is right.
        answer: What was answered.
        finished: Why the answer ends.
        scores: Its metrics.
    """

    row: ScoredRow
    answer: str
    finished: str
    scores: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """The line of `rows.jsonl`."""
        return {
            "row_id": self.row.row_id,
            "where": self.row.where,
            "prompt": self.row.prompt,
            "references": list(self.row.references),
            "answer": self.answer,
            "finished": self.finished,
            "scores": dict(self.scores),
            "fields": dict(self.row.fields),
        }


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        about: The content of `evaluation.json`.
        main: The metric by which models are compared.
        metrics: Every metric with its interval.
        slices: The main metric on parts of the rows.
        rows: Every row.
        usage: What the answers took.
        notes: What a reader must know.
    """

    about: Mapping[str, Any]
    main: str
    metrics: Mapping[str, Estimate]
    slices: Sequence[SliceScore]
    rows: Sequence[AnsweredRow]
    usage: Usage = field(default_factory=Usage)
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The model."""
        return str(self.about["model"])

    @property
    def row_scores(self) -> RowScores:
        """Metrics of each row, those that every row has."""
        names = [name for name in self.rows[0].scores if all(name in row.scores for row in self.rows)]
        return RowScores(self.main, {name: tuple(row.scores[name] for row in self.rows) for name in names})

    def scores_json(self) -> dict[str, object]:
        """The content of `scores.json`."""
        return {
            "main": self.main,
            "num_rows": len(self.rows),
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "slices": [part.to_json() for part in self.slices],
            "usage": asdict(self.usage),
            "notes": list(self.notes),
        }


def evaluation_key(about: Mapping[str, object]) -> str:
    """What identifies an evaluation: model, rows and settings, and not when it was made.

    Args:
        about: The content of `evaluation.json` without the key.
    """
    parts = {name: about[name] for name in ("identity", "rows_hash", "instruction", "settings", "num_rows")}
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def begin(folder: Path, about: Mapping[str, object], *, force: bool) -> None:
    """Make an evaluation's folder, or go on in it.

    Args:
        folder: Where to.
        about: What is evaluated, with its key.
        force: Whether another evaluation in it is replaced; answers that were kept stay.

    Raises:
        UserError: `file-exists` where it holds something else; `file-unwritable` or `disk-full`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError("file-unwritable", f"{folder}: {reason}", hint="name another folder with --out") from error
    if not (folder / ABOUT_NAME).is_file():
        if any(path.name != ANSWERS_NAME and not path.name.startswith(ANSWERS_NAME) for path in folder.iterdir()):
            raise UserError(
                "file-exists", f"{folder} exists and holds no evaluation", hint="name another folder with --out"
            )
    elif not force:
        kept = read_about(folder)
        if kept["key"] != about["key"]:
            raise UserError(
                "file-exists",
                f"{folder} holds an evaluation with another {', '.join(_differing(kept, about))}",
                hint="name another folder with --out, or replace it with --force; answers already given are kept",
            )
    elif read_about(folder)["key"] != about["key"]:
        # Scores of another evaluation must not stand beside this one's description.
        (folder / SCORES_NAME).unlink(missing_ok=True)
    write_atomic(folder / ABOUT_NAME, _dump(about))


def write_results(folder: Path, evaluated: Evaluated, report: str) -> None:
    """Write rows, scores and report into an evaluation's folder.

    Args:
        folder: Where to.
        evaluated: The finished evaluation.
        report: The page.

    Raises:
        UserError: `disk-full`.
    """
    lines = [orjson.dumps(row.to_json()) + b"\n" for row in evaluated.rows]
    write_atomic(folder / ROWS_NAME, b"".join(lines))
    write_atomic(folder / REPORT_NAME, report)
    write_atomic(folder / ABOUT_NAME, _dump(evaluated.about))
    # Last: where the scores are, everything is.
    write_atomic(folder / SCORES_NAME, _dump(evaluated.scores_json()))


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds an evaluation, finished or not.

    Args:
        folder: The folder.
    """
    return (folder / ABOUT_NAME).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """What an evaluation is of.

    Args:
        folder: Of the evaluation.

    Raises:
        UserError: `evaluation-invalid`.
    """
    try:
        about = orjson.loads((folder / ABOUT_NAME).read_bytes())
        found, about["key"] = about["format"], str(about["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder / ABOUT_NAME, error) from error
    if found != FORMAT:
        raise _unreadable(folder / ABOUT_NAME, ValueError(f"its format is {found}, and {FORMAT} is read here"))
    return about


def read_evaluation(folder: Path) -> Evaluated:
    """A finished evaluation.

    Args:
        folder: Of the evaluation.

    Raises:
        UserError: `evaluation-invalid` where it is not finished or cannot be read.
    """
    about = read_about(folder)
    if not (folder / SCORES_NAME).is_file():
        raise UserError(
            "evaluation-invalid",
            f"the evaluation in {folder} did not come to its end",
            hint="give its `kivnun evaluate` command again; it goes on from where it was",
        )
    try:
        scores = orjson.loads((folder / SCORES_NAME).read_bytes())
        rows = [_read_row(orjson.loads(line)) for line in (folder / ROWS_NAME).read_bytes().splitlines()]
        return Evaluated(
            about,
            scores["main"],
            {name: Estimate(**value) for name, value in scores["metrics"].items()},
            [SliceScore(**{**part, "score": Estimate(**part["score"])}) for part in scores["slices"]],
            rows,
            Usage(**scores["usage"]),
            scores["notes"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder, error) from error


def _read_row(value: Mapping[str, Any]) -> AnsweredRow:
    row = ScoredRow(value["row_id"], value["where"], value["prompt"], tuple(value["references"]), value["fields"])
    return AnsweredRow(row, value["answer"], value["finished"], value["scores"])


def _differing(kept: Mapping[str, object], about: Mapping[str, object]) -> list[str]:
    words = {
        "identity": "model",
        "rows_hash": "rows",
        "instruction": "instruction",
        "settings": "settings",
        "num_rows": "number of rows",
    }
    return [word for name, word in words.items() if kept.get(name) != about.get(name)]


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        "evaluation-invalid", f"{path} cannot be read: {error}", hint="evaluate again into another folder with --out"
    )


def _dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)
