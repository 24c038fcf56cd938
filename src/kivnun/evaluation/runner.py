"""From rows to answers to scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kivnun.errors import UserError
from kivnun.evaluation.metrics import confusion_matrix, normalize_text
from kivnun.evaluation.results import Scores
from kivnun.evaluation.scoring import RowScores, ScoredRow, Scoring, score_rows, summarise

if TYPE_CHECKING:
    # For types only: an engine brings torch, and scoring answers needs none.
    from kivnun.generation.engine import Engine


class Decoder(Protocol):
    """What is needed of a tokenizer: token ids back to text."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str | list[str]:  # noqa: FBT001
        """The text of the ids."""
        ...


@dataclass(frozen=True)
class EvalRow:
    """One row of the split that is evaluated: what the model is asked and what it should answer.

    Attributes:
        row_id: Content hash.
        where: `file:line`.
        prompt: What is asked.
        prompt_ids: The same as the model sees it.
        reference: The row's own right answer.
        fields: The row's fields.
        others: Further right answers.
    """

    row_id: str
    where: str
    prompt: str
    prompt_ids: tuple[int, ...]
    reference: str
    fields: Mapping[str, str]
    others: tuple[str, ...] = ()

    @property
    def scored(self) -> ScoredRow:
        """The row as it is scored."""
        return ScoredRow(self.row_id, self.where, self.prompt, (self.reference, *self.others), self.fields)


def answer_rows(
    engine: "Engine",
    rows: Sequence[EvalRow],
    *,
    tokenizer: Decoder,
    max_new_tokens: int,
    stop_ids: frozenset[int],
) -> list[str]:
    """Let an engine answer every row, greedily; the answers come in the order of the rows."""
    prompts = [row.prompt_ids for row in rows]
    generations = engine.generate(prompts, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
    if len(generations) != len(rows):
        raise RuntimeError(f"engine {engine.name} gave {len(generations)} answers to {len(rows)} prompts")
    return [str(tokenizer.decode(list(each.token_ids), skip_special_tokens=True)) for each in generations]


def score_system(
    name: str, answers: Sequence[str], rows: Sequence[ScoredRow], scoring: Scoring
) -> tuple[Scores, RowScores]:
    """All metrics of one system, and those of each row; of a classification the confusion matrix too.

    Args:
        name: The system.
        answers: What it answered, in the order of the rows.
        rows: The rows.
        scoring: How answers are scored.

    Raises:
        UserError: `split-too-small` without rows; `stage-unsupported` for a label of several lines, which no first
            line could equal; `metric-invalid` where a metric of your own fails.
    """
    _require_rows(name, rows)
    is_classification = scoring.task == "classification"
    if is_classification:
        _require_single_lines(scoring.labels)
    found = score_rows(answers, rows, scoring)
    confusion = (
        confusion_matrix(answers, [row.references[0] for row in rows], scoring.labels) if is_classification else None
    )
    return Scores(name, len(rows), summarise(answers, rows, found, scoring), confusion), found


def score_classification(
    name: str,
    answers: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int,
    resamples: int,
) -> Scores:
    """Accuracy, macro-F1, exact match of the whole answer, and the confusion matrix.

    No rows are refused (split-too-small), and so is a label of several lines (stage-unsupported), which no first line
    could equal.
    """
    rows = [ScoredRow("", "", "", (reference,), {}) for reference in references]
    scoring = Scoring("classification", labels=tuple(labels), seed=seed, resamples=resamples)
    return score_system(name, answers, rows, scoring)[0]


def _require_single_lines(labels: Sequence[str]) -> None:
    if any("\n" in normalize_text(label) for label in labels):
        raise UserError(
            "stage-unsupported",
            "evaluation.task is classification, but a label has several lines",
            hint="set evaluation.task: generation",
        )


def _require_rows(name: str, rows: Sequence[ScoredRow]) -> None:
    if not rows:
        raise UserError(
            "split-too-small",
            f"there is no test row to evaluate {name} on",
            hint="give data.test a file or data.split.test a larger share",
        )
