"""Two systems on the same rows, whatever the metric: the difference with its interval, and an exact or resampled test.

Scores that are 0 or 1 are tested as McNemar does, exactly; graded ones by flipping signs, exactly up to 16 rows that
differ and by 9,999 seeded draws beyond. The interval is a bootstrap of the paired differences, of
graded ones its error with Student's t; where fewer than ten rows differ it would be too narrow, and two rows are added,
one won and one lost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from kivnun.evaluation.intervals import (
    mcnemar_exact,
    paired_difference,
    student_quantile,
)
from kivnun.evaluation.metrics import Floats
from kivnun.evaluation.results import Estimate, PairedTest, Verdict, judge_difference

FEW_DIFFERENCES = 10
MAX_EXACT_FLIPS = 16
NUM_FLIPS = 9_999
ADDED_ROWS = "Wald, one win and one loss added"
STUDENT = "Student's t over paired differences"
_FLIPS_AT_ONCE = 2_000_000
# Differences of equal scores may be 1e-17 after summing in another order.
_SLACK = 1e-12


@dataclass(frozen=True)
class ScoreComparison:
    """Two systems on the same rows.

    Attributes:
        baseline: Name of the one.
        candidate: Name of the other.
        baseline_mean: Mean score of the one.
        candidate_mean: Mean score of the other.
        difference: Candidate minus baseline.
        p_value: Two-sided, that there is no difference.
        test: How it was found.
        wins: Rows on which the candidate scores higher.
        losses: Rows on which it scores lower.
        ties: Rows on which both score the same.
    """

    baseline: str
    candidate: str
    baseline_mean: float
    candidate_mean: float
    difference: Estimate
    p_value: float
    test: PairedTest
    wins: int
    losses: int
    ties: int

    @property
    def num_rows(self) -> int:
        """How many rows were compared."""
        return self.wins + self.losses + self.ties

    @property
    def verdict(self) -> Verdict:
        """Better or worse only if the test and the interval both say so."""
        return judge_difference(self.difference, self.p_value)

    def to_json(self) -> dict[str, object]:
        """The fields and the verdict as JSON values."""
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "num_rows": self.num_rows,
            "baseline_mean": self.baseline_mean,
            "candidate_mean": self.candidate_mean,
            "difference": self.difference.to_json(),
            "p_value": self.p_value,
            "test": self.test,
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "verdict": self.verdict,
        }


def compare_scores(
    names: tuple[str, str], baseline: Sequence[float], candidate: Sequence[float], *, seed: int, resamples: int
) -> ScoreComparison:
    """Compare two systems row by row.

    Args:
        names: The baseline's and the candidate's.
        baseline: Score of each row, from 0 to 1.
        candidate: The other's, of the same rows in the same order.
        seed: Of the resampling.
        resamples: How many, for the interval.
    """
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} and {len(after)} scores are not of the same rows")
    differences = _differences(before, after)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    is_binary = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    return ScoreComparison(
        baseline=names[0],
        candidate=names[1],
        baseline_mean=math.fsum(before.tolist()) / len(before),
        candidate_mean=math.fsum(after.tolist()) / len(after),
        difference=estimate_difference(differences, is_binary=is_binary, seed=seed, resamples=resamples),
        p_value=mcnemar_exact(losses, wins) if is_binary else sign_flip_test(differences.tolist(), seed=seed),
        test="mcnemar" if is_binary else "permutation",
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
    )


def sign_flip_test(differences: Sequence[float], *, seed: int) -> float:
    """The two-sided p value that each difference might as well have had the other sign.

    Args:
        differences: Candidate minus baseline, of each row.
        seed: Of the draws, where there are too many signs to try all.

    Reference: Fisher 1935, The Design of Experiments, section 21; with draws, p = (1 + hits) / (1 + draws) as in
    Phipson and Smyth 2010, arXiv:1603.05766.
    """
    sizes = np.sort(np.abs(np.asarray([each for each in differences if each], dtype=np.float64)))
    if not len(sizes):
        return 1.0
    observed = abs(math.fsum(differences)) - _SLACK
    if len(sizes) <= MAX_EXACT_FLIPS:
        signs = np.asarray(list(product((-1, 1), repeat=len(sizes))), dtype=np.float64).reshape(-1, len(sizes))
        return float((np.abs(signs @ sizes) >= observed).mean())
    generator = np.random.default_rng(seed)
    at_once = max(1, _FLIPS_AT_ONCE // len(sizes))
    hits = 0
    for start in range(0, NUM_FLIPS, at_once):
        shape = (min(at_once, NUM_FLIPS - start), len(sizes))
        signs = 2.0 * generator.integers(0, 2, size=shape) - 1
        hits += int((np.abs(signs @ sizes) >= observed).sum())
    return (1 + hits) / (1 + NUM_FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number, in their order: below .05 in all is wrong in one of them in at most 5 %.

    Args:
        p_values: One of each comparison.

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def estimate_difference(differences: Floats, *, is_binary: bool, seed: int, resamples: int) -> Estimate:
    """The mean difference with its interval.

    Args:
        differences: Candidate minus baseline, of each row.
        is_binary: Whether the scores are 0 or 1.
        seed: Of the resampling.
        resamples: How many.
    """
    num_rows = len(differences)
    # Summed exactly, so that the order of the rows does not matter.
    mean = math.fsum(differences.tolist()) / num_rows
    if np.count_nonzero(differences) < FEW_DIFFERENCES:
        # Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
        # paired data"; the same for graded scores, which vary less.
        more = np.append(differences, (1.0, -1.0))
        error = 1.959964 * float(more.std()) / math.sqrt(len(more))
        low, high = float(more.mean()) - error, float(more.mean()) + error
        return Estimate(mean, max(-1.0, min(low, mean)), min(1.0, max(high, mean)), ADDED_ROWS)
    if is_binary:
        return paired_difference(
            int((differences < 0).sum()), int((differences > 0).sum()), num_rows, seed=seed, resamples=resamples
        )
    # On 50 rows of which most are equal percentiles cover 92 %, the bootstrap's error with Student's t covers 95 %; of
    # a mean that error is known without drawing.
    error = student_quantile(num_rows - 1) * float(np.sort(differences).std(ddof=1)) / math.sqrt(num_rows)
    return Estimate(mean, mean - error, mean + error, STUDENT)


def _differences(before: Floats, after: Floats) -> Floats:
    found = after - before
    return np.where(np.abs(found) < _SLACK, 0.0, found)
