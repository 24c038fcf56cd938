"""Two systems on the same rows: what broke, what was mended, and whether the difference is real."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from kivnun.evaluation.intervals import mcnemar_exact
from kivnun.evaluation.metrics import is_right
from kivnun.evaluation.paired import compare_scores, estimate_difference
from kivnun.evaluation.results import PairedComparison, Task
from kivnun.evaluation.wording import SHARES


@dataclass(frozen=True)
class Outcome:
    """One test row with the answers of both models.

    Attributes:
        row_id: Content hash.
        where: `file:line`.
        prompt: What was asked.
        reference: The row's own right answer; others may count too.
        base_answer: The base model's answer.
        tuned_answer: The tuned model's answer.
        base_score: Its main metric, from 0 to 1; None in results of older versions.
        tuned_score: The same of the tuned model's answer.
    """

    row_id: str
    where: str
    prompt: str
    reference: str
    base_answer: str
    tuned_answer: str
    base_score: float | None = None
    tuned_score: float | None = None

    def scores(self, *, task: Task) -> tuple[float, float]:
        """The main metric of both answers; without one, whether each is the reference.

        Args:
            task: What the rows are scored for.
        """
        if self.base_score is not None and self.tuned_score is not None:
            return self.base_score, self.tuned_score
        base, tuned = (is_right(answer, self.reference, task=task) for answer in (self.base_answer, self.tuned_answer))
        return float(base), float(tuned)

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class OutcomeGroups:
    """All test rows by what tuning did to them, the regressions first.

    Each group has the rows on which most changed first, and equal ones in the order of the data files. Of graded scores
    a regression is a lower one, a fix a higher one, and both are right where both have the highest.
    """

    regressions: tuple[Outcome, ...]
    fixes: tuple[Outcome, ...]
    both_wrong: tuple[Outcome, ...]
    both_right: tuple[Outcome, ...]

    def to_json(self) -> dict[str, list[dict[str, object]]]:
        """The groups as JSON values, the regressions first."""
        return {
            "regressions": [outcome.to_json() for outcome in self.regressions],
            "fixes": [outcome.to_json() for outcome in self.fixes],
            "both_wrong": [outcome.to_json() for outcome in self.both_wrong],
            "both_right": [outcome.to_json() for outcome in self.both_right],
        }


def group_outcomes(outcomes: Iterable[Outcome], *, task: Task) -> OutcomeGroups:
    """Sort the rows into regressions, fixes, both wrong and both right, whatever order they came in."""
    scored = [(outcome, *outcome.scores(task=task)) for outcome in sorted(outcomes, key=_place)]
    scored.sort(key=lambda each: -abs(each[2] - each[1]))
    return OutcomeGroups(
        regressions=tuple(outcome for outcome, base, tuned in scored if tuned < base),
        fixes=tuple(outcome for outcome, base, tuned in scored if tuned > base),
        both_wrong=tuple(outcome for outcome, base, tuned in scored if tuned == base < 1),
        both_right=tuple(outcome for outcome, base, tuned in scored if tuned == base >= 1),
    )


def compare_by(
    metric: str,
    names: tuple[str, str],
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    seed: int,
    resamples: int,
) -> PairedComparison:
    """Compare two systems row by row in a metric: shares of right rows by McNemar's counts, others by their means.

    Args:
        metric: What the scores are.
        names: The baseline's and the candidate's.
        baseline: Score of each row.
        candidate: The other's, of the same rows in the same order.
        seed: Of the resampling.
        resamples: How many.
    """
    options = {"seed": seed, "resamples": resamples}
    if metric in SHARES:
        right = [[score == 1 for score in scores] for scores in (baseline, candidate)]
        return replace(compare_rows(names, *right, **options), metric=metric)
    found = compare_scores(names, baseline, candidate, **options)
    both_right = sum(before == after >= 1 for before, after in zip(baseline, candidate, strict=True))
    return PairedComparison(
        baseline=names[0],
        candidate=names[1],
        both_right=both_right,
        only_baseline=found.losses,
        only_candidate=found.wins,
        both_wrong=found.ties - both_right,
        difference=found.difference,
        p_value=found.p_value,
        metric=metric,
        test=found.test,
        means=(found.baseline_mean, found.candidate_mean),
    )


def compare_rows(
    names: tuple[str, str],
    baseline_right: Sequence[bool],
    candidate_right: Sequence[bool],
    *,
    seed: int,
    resamples: int,
) -> PairedComparison:
    """Compare two systems row by row: difference of shares with the interval of `paired`, and McNemar's exact p.

    `names` are the baseline's and the candidate's; the rows are those of `metrics.rows_right`, in the same order.
    """
    rows = list(zip(baseline_right, candidate_right, strict=True))
    only_baseline = rows.count((True, False))
    only_candidate = rows.count((False, True))
    differences = np.asarray([float(after) - float(before) for before, after in rows])
    return PairedComparison(
        baseline=names[0],
        candidate=names[1],
        both_right=rows.count((True, True)),
        only_baseline=only_baseline,
        only_candidate=only_candidate,
        both_wrong=rows.count((False, False)),
        difference=estimate_difference(differences, is_binary=True, seed=seed, resamples=resamples),
        p_value=mcnemar_exact(only_baseline, only_candidate),
    )


def _place(outcome: Outcome) -> tuple[str, int, str, str]:
    """Order by file, then line as a number, so that line 10 follows line 9."""
    match = re.fullmatch(r"(.*):(\d+)", outcome.where, flags=re.DOTALL)
    file, line = (match[1], int(match[2])) if match else (outcome.where, 0)
    return file, line, outcome.row_id, outcome.prompt
