"""From rows to answers to scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kivnun.errors import UserError
from kivnun.evaluation.intervals import macro_f1_estimate, share
from kivnun.evaluation.metrics import confusion_matrix, encode_labels, normalize_text, rows_right
from kivnun.evaluation.results import Estimate, Scores, Task

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
    """One row of the split that is evaluated: what the model is asked and what it should answer."""

    row_id: str
    where: str
    prompt: str
    prompt_ids: tuple[int, ...]
    reference: str
    fields: Mapping[str, str]


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
    _require_rows(name, references)
    if any("\n" in normalize_text(label) for label in labels):
        raise UserError(
            "stage-unsupported",
            "evaluation.task is classification, but a label has several lines",
            hint="set evaluation.task: generation",
        )
    answer_codes, reference_codes = encode_labels(answers, references, labels)
    metrics = {
        "accuracy": _share_right(answers, references, task="classification"),
        "macro_f1": macro_f1_estimate(answer_codes, reference_codes, len(labels), seed=seed, resamples=resamples),
        "exact_match": _share_right(answers, references, task="generation"),
    }
    return Scores(name, len(references), metrics, confusion_matrix(answers, references, labels))


def score_generation(name: str, answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Exact match of the whole answer; no rows are refused (split-too-small)."""
    _require_rows(name, references)
    return Scores(name, len(references), {"exact_match": _share_right(answers, references, task="generation")})


def score_retrieval(name: str, answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Recall at 1: whether the nearest text is the one that belongs; no rows are refused (split-too-small)."""
    _require_rows(name, references)
    return Scores(name, len(references), {"recall_at_1": _share_right(answers, references, task="retrieval")})


def _share_right(answers: Sequence[str], references: Sequence[str], *, task: Task) -> Estimate:
    right = rows_right(answers, references, task=task)
    return share(sum(right), len(right))


def _require_rows(name: str, references: Sequence[str]) -> None:
    if not references:
        raise UserError(
            "split-too-small",
            f"there is no test row to evaluate {name} on",
            hint="give data.test a file or data.split.test a larger share",
        )
