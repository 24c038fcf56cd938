"""Two systems on the same rows: what broke, what was mended, and whether the difference is real."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from kivnun.evaluation.intervals import mcnemar_exact, paired_difference
from kivnun.evaluation.metrics import is_right
from kivnun.evaluation.results import PairedComparison, Task


@dataclass(frozen=True)
class Outcome:
    """One test row with the answers of both models."""

    row_id: str
    where: str
    prompt: str
    reference: str
    base_answer: str
    tuned_answer: str

    def to_json(self) -> dict[str, str]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class OutcomeGroups:
    """All test rows by what tuning did to them, the regressions first; each group in the order of the data files."""

    regressions: tuple[Outcome, ...]
    fixes: tuple[Outcome, ...]
    both_wrong: tuple[Outcome, ...]
    both_right: tuple[Outcome, ...]

    def to_json(self) -> dict[str, list[dict[str, str]]]:
        """The groups as JSON values, the regressions first."""
        return {
            "regressions": [outcome.to_json() for outcome in self.regressions],
            "fixes": [outcome.to_json() for outcome in self.fixes],
            "both_wrong": [outcome.to_json() for outcome in self.both_wrong],
            "both_right": [outcome.to_json() for outcome in self.both_right],
        }


def group_outcomes(outcomes: Iterable[Outcome], *, task: Task) -> OutcomeGroups:
    """Sort the rows into regressions, fixes, both wrong and both right, whatever order they came in."""
    groups: dict[tuple[bool, bool], list[Outcome]] = {
        (base, tuned): [] for base in (True, False) for tuned in (True, False)
    }
    for outcome in sorted(outcomes, key=_place):
        base = is_right(outcome.base_answer, outcome.reference, task=task)
        tuned = is_right(outcome.tuned_answer, outcome.reference, task=task)
        groups[base, tuned].append(outcome)
    return OutcomeGroups(
        regressions=tuple(groups[True, False]),
        fixes=tuple(groups[False, True]),
        both_wrong=tuple(groups[False, False]),
        both_right=tuple(groups[True, True]),
    )


def compare_rows(
    names: tuple[str, str],
    baseline_right: Sequence[bool],
    candidate_right: Sequence[bool],
    *,
    seed: int,
    resamples: int,
) -> PairedComparison:
    """Compare two systems row by row: difference of shares with a paired bootstrap interval, and McNemar's exact p.

    `names` are the baseline's and the candidate's; the rows are those of `metrics.rows_right`, in the same order.
    """
    rows = list(zip(baseline_right, candidate_right, strict=True))
    only_baseline = rows.count((True, False))
    only_candidate = rows.count((False, True))
    return PairedComparison(
        baseline=names[0],
        candidate=names[1],
        both_right=rows.count((True, True)),
        only_baseline=only_baseline,
        only_candidate=only_candidate,
        both_wrong=rows.count((False, False)),
        difference=paired_difference(only_baseline, only_candidate, len(rows), seed=seed, resamples=resamples),
        p_value=mcnemar_exact(only_baseline, only_candidate),
    )


def _place(outcome: Outcome) -> tuple[str, int, str, str]:
    """Order by file, then line as a number, so that line 10 follows line 9."""
    match = re.fullmatch(r"(.*):(\d+)", outcome.where, flags=re.DOTALL)
    file, line = (match[1], int(match[2])) if match else (outcome.where, 0)
    return file, line, outcome.row_id, outcome.prompt
