"""Which answers are right, and what that adds up to.

An answer and its reference are compared after Unicode NFC and stripping of white space at both ends, with case kept.
In classification only the first line of the answer counts; an answer outside the label set is wrong and is counted in
the `(other)` column.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kivnun.evaluation.results import Confusion, Task

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def normalize_text(text: str) -> str:
    """The form in which texts are compared: NFC, stripped."""
    return unicodedata.normalize("NFC", text).strip()


def first_line(answer: str) -> str:
    """The first line that holds anything, in the form in which texts are compared."""
    lines = normalize_text(answer).splitlines()
    return lines[0].strip() if lines else ""


def is_right(answer: str, reference: str, *, task: Task) -> bool:
    """Whether one answer counts as right in this task."""
    given = first_line(answer) if task == "classification" else normalize_text(answer)
    return given == normalize_text(reference)


def rows_right(answers: Sequence[str], references: Sequence[str], *, task: Task) -> list[bool]:
    """Row by row, whether the answer is right."""
    return [is_right(answer, reference, task=task) for answer, reference in zip(answers, references, strict=True)]


def accuracy(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of rows whose first line is the reference label."""
    return float(np.mean(rows_right(answers, references, task="classification")))


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of rows whose whole answer is the reference."""
    return float(np.mean(rows_right(answers, references, task="generation")))


def collect_labels(*splits: Sequence[str]) -> tuple[str, ...]:
    """The label set of several splits, in the form in which labels are compared, sorted."""
    return tuple(sorted({normalize_text(label) for split in splits for label in split}))


def encode_labels(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> tuple[Codes, Codes]:
    """Answers and references as positions in `labels`; an answer outside the set gets `len(labels)`.

    A reference outside the label set is a ValueError: no answer to it could be right.
    """
    positions = {normalize_text(label): position for position, label in enumerate(labels)}
    unknown = sorted({normalize_text(reference) for reference in references} - positions.keys())
    if unknown:
        raise ValueError(f"references outside the label set: {unknown[:5]}")
    answer_codes = [positions.get(first_line(answer), len(labels)) for answer in answers]
    reference_codes = [positions[normalize_text(reference)] for reference in references]
    return np.asarray(answer_codes, dtype=np.int64), np.asarray(reference_codes, dtype=np.int64)


def count_cells(answer_codes: Codes, reference_codes: Codes, num_labels: int) -> Counts:
    """The confusion matrix as an array: true label by answered label, with one more column for other answers."""
    cells = reference_codes * (num_labels + 1) + answer_codes
    return np.bincount(cells, minlength=num_labels * (num_labels + 1)).reshape(num_labels, num_labels + 1)


def confusion_matrix(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Confusion:
    """How often each true label was answered with each label."""
    counts = count_cells(*encode_labels(answers, references, labels), len(labels))
    rows = tuple(tuple(int(count) for count in row) for row in counts)
    return Confusion(labels=tuple(normalize_text(label) for label in labels), counts=rows)


def macro_f1_of_counts(counts_SLC: Counts) -> Floats:
    """Macro-F1 of each of S confusion matrices (S samples, L labels, C = L + 1 columns).

    A label that is neither true nor answered in a sample has no F1 there and is left out of that sample's mean.
    """
    num_labels = counts_SLC.shape[1]
    answered_SL = counts_SLC[:, :, :num_labels].sum(axis=1)
    true_SL = counts_SLC.sum(axis=2)
    right_SL = np.diagonal(counts_SLC, axis1=1, axis2=2)
    involved_SL = answered_SL + true_SL
    f1_SL = 2 * right_SL / np.maximum(involved_SL, 1)
    return f1_SL.sum(axis=1) / (involved_SL > 0).sum(axis=1)


def macro_f1(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over the label set of each label's F1; other answers cost recall but are no label of their own."""
    counts = count_cells(*encode_labels(answers, references, labels), len(labels))
    return float(macro_f1_of_counts(counts[np.newaxis])[0])
