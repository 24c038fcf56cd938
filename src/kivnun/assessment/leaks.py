"""Rows to evaluate on that a run was trained on: what is measured on them is memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kivnun.assessment.questions import Questions, shown_prompt
from kivnun.data.duplicates.minhash import near_pairs, signatures
from kivnun.data.duplicates.words import comparable
from kivnun.data.folder import StoredRow, read_dataset
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.evaluation.metrics import normalize_text

MAX_SHOWN = 5
MAX_NEAR_ROWS = 200_000
"""Beyond so many training rows near misses are not looked for: signatures of all would take minutes."""


@dataclass(frozen=True)
class Leaks:
    """What training rows and rows to evaluate on share.

    Attributes:
        exact: Numbers of rows that were trained on, with question and answer.
        near: Numbers of rows of which nearly the same question, or the same with another answer, was trained on.
        is_near_checked: Whether near ones were looked for.
        is_checked: Whether any were: a run without its data set cannot say what it was trained on.
    """

    exact: tuple[int, ...]
    near: tuple[int, ...]
    is_near_checked: bool = True
    is_checked: bool = True


def find_leaks(questions: Questions, run_dir: Path) -> Leaks:
    """Which rows a run was trained on.

    Args:
        questions: The rows to evaluate on.
        run_dir: The run.
    """
    path = run_dir / "dataset" / "train.jsonl"
    if not path.is_file():
        return Leaks((), (), is_checked=False)
    dataset = read_dataset(run_dir / "dataset")
    train = dataset.rows("train")
    ids = {row.id for row in train}
    asked = [comparable(shown_prompt(row, questions.template)) for row in questions.conversations]
    trained = [comparable(_shown(row, dataset.template)) for row in train]
    known = {(text, normalize_text(row.answer)) for text, row in zip(trained, train, strict=True)}
    exact = [
        number
        for number, (row, text) in enumerate(zip(questions.conversations, asked, strict=True))
        if row.content_hash in ids or (text, normalize_text(row.answer)) in known
    ]
    if len(train) > MAX_NEAR_ROWS:
        return Leaks(tuple(exact), (), is_near_checked=False)
    same = set(trained)
    near = (_near(trained, asked) | {n for n, text in enumerate(asked) if text in same}) - set(exact)
    return Leaks(tuple(exact), tuple(sorted(near)))


def settle_leaks(questions: Questions, run_dir: Path, *, leave_out: bool) -> Questions:
    """Refuse rows that a run was trained on, or leave them out and count them; near ones become a note.

    Args:
        questions: The rows to evaluate on.
        run_dir: The run.
        leave_out: Whether they are left out.

    Raises:
        UserError: `test-leaked`.
    """
    leaks = find_leaks(questions, run_dir)
    total = len(questions.conversations)
    if leaks.exact and (not leave_out or len(leaks.exact) == total):
        places = [questions.conversations[number].where for number in leaks.exact]
        more = [f"and {len(places) - MAX_SHOWN:,} more"] if len(places) > MAX_SHOWN else []
        raise UserError(
            "test-leaked",
            f"{run_dir} was trained on {len(places):,} of the {total:,} rows that it should be evaluated on",
            details=[*places[:MAX_SHOWN], *more],
            hint="evaluate on rows that it never saw, or say --leave-out-leaked to evaluate on the others",
        )
    notes = list(questions.notes)
    if leaks.near:
        first = questions.conversations[leaks.near[0]].where
        notes.append(
            f"{len(leaks.near):,} of {total:,} rows ask nearly what a training row of {run_dir} asks, such as {first}"
        )
    if not leaks.is_checked:
        notes.append(f"{run_dir} has no data set, so that nobody knows whether it was trained on these rows")
    if not leaks.is_near_checked:
        notes.append(f"whether rows are nearly the same as training rows of {run_dir} was not looked at")
    named = Questions(**{**vars(questions), "notes": tuple(notes)})
    return named.without(leaks.exact, f"stand in the training rows of {run_dir}")


def _near(trained: list[str], asked: list[str]) -> set[int]:
    """Numbers of the asked texts that are nearly the same as a trained one."""
    pairs = near_pairs(np.concatenate([signatures(trained), signatures(asked)]))
    border = len(trained)
    crossing = pairs[(pairs[:, 0] < border) & (pairs[:, 1] >= border)]
    return {int(number) - border for number in crossing[:, 1]}


def _shown(row: StoredRow, template: PromptTemplate) -> str:
    names = template.prompt_fields if template.kind == "text" else ()
    return "\n".join(row.fields[name] for name in names) if names else row.prompt
