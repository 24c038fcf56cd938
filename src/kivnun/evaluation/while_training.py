"""Metrics of answers that a model in training generates for some validation rows."""

from collections.abc import Callable, Mapping, Sequence

from kivnun.evaluation.metrics import accuracy, collect_labels, exact_match, macro_f1
from kivnun.evaluation.rouge import rouge_l

Metric = Callable[[Sequence[str], Sequence[str]], float]


def _macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    return macro_f1(answers, references, collect_labels(references))


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": _macro_f1,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
}
"""What `training.validation_metrics` names; every one is better when it is higher."""


def score_while_training(names: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The metrics of some answers.

    Args:
        names: Keys of `METRICS`.
        answers: What the model answered.
        references: What it should have.
    """
    return {name: METRICS[name](answers, references) for name in names}
