"""The values that an evaluation ends in: plain, frozen, and dumped with `to_json`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Task = Literal["classification", "generation", "retrieval", "extraction", "summarisation", "question_answering", "code"]
Verdict = Literal["better", "worse", "unclear"]
PairedTest = Literal["mcnemar", "permutation"]

BASE = "base"
TUNED = "tuned"
MAJORITY = "majority class"
LINEAR = "TF-IDF + logistic regression"

PREFERENCE = "preference_accuracy"
"""Share of pairs whose preferred answer is likelier than the rejected one."""
REWARD = "reward_accuracy"
"""Share of pairs whose preferred answer gained on the rejected one, against the base model."""

OTHER = "(other)"
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval and the method that gave the interval."""

    value: float
    low: float
    high: float
    method: str

    def to_json(self) -> dict[str, float | str]:
        """The fields as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "method": self.method}


def judge_difference(difference: Estimate, p_value: float) -> Verdict:
    """Better or worse only if the test and the interval both say so.

    Args:
        difference: Candidate minus baseline.
        p_value: Of that difference; a corrected one (`paired.holm`) where several were looked at.
    """
    if p_value < SIGNIFICANCE and difference.low > 0:
        return "better"
    return "worse" if p_value < SIGNIFICANCE and difference.high < 0 else "unclear"


@dataclass(frozen=True)
class Confusion:
    """Counts of true label (row) against answered label (column); the last column holds answers outside the set."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names: the labels, then `(other)`."""
        return (*self.labels, OTHER)

    @property
    def num_other(self) -> int:
        """How many answers were no label at all."""
        return sum(row[-1] for row in self.counts)

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values, with the column names."""
        return {
            "labels": list(self.labels),
            "columns": list(self.columns),
            "counts": [list(row) for row in self.counts],
        }


@dataclass(frozen=True)
class Scores:
    """All metrics of one system on one split."""

    name: str
    num_rows: int
    metrics: Mapping[str, Estimate]
    confusion: Confusion | None = None

    def with_metric(self, name: str, estimate: Estimate) -> "Scores":
        """The same scores with one metric more, such as the perplexity."""
        return replace(self, metrics={**self.metrics, name: estimate})

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "name": self.name,
            "num_rows": self.num_rows,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "confusion": None if self.confusion is None else self.confusion.to_json(),
        }


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same rows: who is right where, or scores higher, the difference, and the p value of a test.

    Attributes:
        baseline: Name of the one.
        candidate: Name of the other.
        both_right: Rows that both have right.
        only_baseline: Rows that only the baseline has right, or on which it scores higher.
        only_candidate: The same of the candidate.
        both_wrong: Rows that neither has right, or on which both score the same and less than 1.
        difference: Of their shares right, or of their mean scores.
        p_value: Of McNemar's exact test, or of flipping signs.
        metric: What a row is scored by; "" in results of older versions.
        test: Which test it is.
        means: Mean scores of both, where they are graded and no shares of right rows.
    """

    baseline: str
    candidate: str
    both_right: int
    only_baseline: int
    only_candidate: int
    both_wrong: int
    difference: Estimate
    p_value: float
    metric: str = ""
    test: PairedTest = "mcnemar"
    means: tuple[float, float] | None = None

    @property
    def num_rows(self) -> int:
        """How many rows were compared."""
        return self.both_right + self.only_baseline + self.only_candidate + self.both_wrong

    @property
    def baseline_share(self) -> float:
        """The share of rows that the baseline had right, or its mean score."""
        return self.means[0] if self.means else (self.both_right + self.only_baseline) / self.num_rows

    @property
    def candidate_share(self) -> float:
        """The share of rows that the candidate had right, or its mean score."""
        return self.means[1] if self.means else (self.both_right + self.only_candidate) / self.num_rows

    @property
    def verdict(self) -> Verdict:
        """Better or worse only if the exact test and the interval both say so."""
        return judge_difference(self.difference, self.p_value)

    def to_json(self) -> dict[str, object]:
        """The fields and the verdict as JSON values."""
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "num_rows": self.num_rows,
            "both_right": self.both_right,
            "only_baseline": self.only_baseline,
            "only_candidate": self.only_candidate,
            "both_wrong": self.both_wrong,
            "difference": self.difference.to_json(),
            "p_value": self.p_value,
            "metric": self.metric,
            "test": self.test,
            "means": None if self.means is None else list(self.means),
            "verdict": self.verdict,
        }
