"""Metrics of all rows together, which are no mean over rows, with a bootstrap over rows.

BLEU and chrF are sacrebleu's with its own settings: BLEU splits words by `13a`, which parts ASCII punctuation and keeps
letters of every script with their points; languages without spaces, such as Chinese, are one word, so look at chrF
there. Both are from 0 to 1 here and from 0 to 100 there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from kivnun.evaluation.intervals import WILSON, corpus_estimate, macro_f1_estimate, wilson_of
from kivnun.evaluation.json_answers import count_fields
from kivnun.evaluation.metrics import Floats, count_cells, encode_labels, normalize_text
from kivnun.evaluation.results import Estimate

References = Sequence[Sequence[str]]
"""Right answers of each row."""

LABEL_METRICS = ("macro_f1", "micro_f1")
CORPUS_METRICS = (*LABEL_METRICS, "bleu", "chrf", "field_f1_micro", "field_f1_macro")
"""Every metric of this kind."""


def corpus_metric(
    name: str, answers: Sequence[str], references: References, labels: Sequence[str], *, seed: int, resamples: int
) -> Estimate:
    """One of `CORPUS_METRICS` with its interval.

    Args:
        name: The metric.
        answers: What was answered.
        references: Right answers of each row; of labels the first one counts.
        labels: The label set, for metrics of labels.
        seed: Of the resampling.
        resamples: How many.
    """
    options = {"seed": seed, "resamples": resamples}
    if name in LABEL_METRICS:
        estimate = _label_metric(name, answers, [each[0] for each in references], labels, **options)
    else:
        value_of, statistics = _measure_of(name)(answers, references)
        estimate = corpus_estimate(value_of, statistics, **options)
    if estimate.low < estimate.high:
        return estimate
    # Rows that are all alike do not tell how far others would be; a share of as many rows says at most.
    low, high = wilson_of(estimate.value, len(answers))
    return Estimate(estimate.value, low, high, WILSON)


def _measure_of(name: str) -> Callable[[Sequence[str], References], tuple[Callable[[Floats], float], Floats]]:
    return {
        "bleu": partial(_sacrebleu, make_bleu()),
        "chrf": partial(_sacrebleu, CHRF()),
        "field_f1_micro": partial(_fields, _micro_f1),
        "field_f1_macro": partial(_fields, _macro_f1),
    }[name]


def make_bleu(*, of_sentences: bool = False) -> BLEU:
    """The BLEU that is measured.

    Args:
        of_sentences: Whether it scores sentences alone, which often share no four words: then only those orders count
            that a sentence has.
    """
    # Forced, for its advice about tokenised texts goes to the standard error stream.
    return BLEU(effective_order=of_sentences, force=True)


def _label_metric(
    name: str, answers: Sequence[str], references: Sequence[str], labels: Sequence[str], *, seed: int, resamples: int
) -> Estimate:
    given, expected = encode_labels(answers, references, labels)
    if name == "macro_f1":
        return macro_f1_estimate(given, expected, len(labels), seed=seed, resamples=resamples)
    counts = [count_cells(given[row : row + 1], expected[row : row + 1], len(labels)) for row in range(len(given))]
    # Right, answered with a label, expected: an answer outside the set costs recall alone.
    rows = [[int(np.trace(cells)), int(cells[:, :-1].sum()), int(cells.sum())] for cells in counts]
    return corpus_estimate(_micro_f1, np.asarray(rows, dtype=np.float64), seed=seed, resamples=resamples)


def _sacrebleu(
    metric: Metric, answers: Sequence[str], references: References
) -> tuple[Callable[[Floats], float], Floats]:
    """A score from sums of counts, and what each row adds to them."""
    most = max(map(len, references))
    # None stands for a reference that a row does not have.
    streams = [
        [normalize_text(each[number]) if number < len(each) else None for each in references] for number in range(most)
    ]
    # The public functions give the sums of all rows alone, or an interval that is symmetric and has no seed argument.
    rows = metric._extract_corpus_statistics(  # pyright: ignore[reportPrivateUsage]
        [normalize_text(answer) for answer in answers],
        streams,  # pyright: ignore[reportArgumentType]
    )

    def value_of(sums: Floats) -> float:
        whole = [int(each) for each in sums]
        score = metric._compute_score_from_stats(whole)  # pyright: ignore[reportPrivateUsage]
        return float(score.score) / 100

    return value_of, np.asarray(rows, dtype=np.float64)


def _fields(
    value_of: Callable[[Floats], float], answers: Sequence[str], references: References
) -> tuple[Callable[[Floats], float], Floats]:
    counted = [count_fields(answer, each) for answer, each in zip(answers, references, strict=True)]
    names = list(dict.fromkeys(name for counts in counted for name in counts))
    if not names:
        names = [""]
    rows = [[number for name in names for number in counts.get(name, (0, 0, 0))] for counts in counted]
    return value_of, np.asarray(rows, dtype=np.float64)


def _micro_f1(sums: Floats) -> float:
    """2 TP / (answered + expected) over all fields; where there is nothing to find and nothing found, 1."""
    shared, given, expected = sums.reshape(-1, 3).sum(axis=0)
    return float(2 * shared / (given + expected)) if given + expected else 1.0


def _macro_f1(sums: Floats) -> float:
    """The mean of the fields' F1, of those that are expected somewhere: one that is made up costs the micro F1."""
    table = sums.reshape(-1, 3)
    table = table[table[:, 2] > 0]
    return float((2 * table[:, 0] / (table[:, 1] + table[:, 2])).mean()) if len(table) else 1.0


def per_field(answers: Sequence[str], references: References) -> Mapping[str, tuple[int, int]]:
    """For each field that is expected somewhere, in how many of the rows that expect it all its values are right.

    Args:
        answers: What was answered.
        references: What would be right.
    """
    found: dict[str, tuple[int, int]] = {}
    for answer, each in zip(answers, references, strict=True):
        for name, (shared, given, expected) in count_fields(answer, each).items():
            if expected:
                right, rows = found.get(name, (0, 0))
                found[name] = (right + (shared == given == expected), rows + 1)
    return found
