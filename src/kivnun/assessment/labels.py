"""Human labels that were made elsewhere, to measure a judge with: JSON Lines with `row_id` and `choice` or `score`."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivnun.assessment.agreement import agreement_share, alpha_estimate
from kivnun.assessment.judge import Outcome
from kivnun.assessment.judge_prompts import SCORES
from kivnun.assessment.pairs import MAX_DETAILS, PairedAnswers, require_same_answers
from kivnun.assessment.ratings import PREFIX, read_ratings
from kivnun.assessment.verdicts import OUTCOME_OF, outcomes_of
from kivnun.errors import UserError
from kivnun.evaluation.results import Estimate

KNOWN_CHOICES: dict[str, Outcome] = {**OUTCOME_OF, "tie": "tie"}


@dataclass(frozen=True)
class ScoreAgreement:
    """How far a judge's grades agree with people's.

    Attributes:
        num_rows: Rows that both graded.
        share: Share of them with the same grade.
        ordinal: Krippendorff's alpha of the grades as ranks; None where all grades are the same.
        interval: The same of the grades as numbers.
    """

    num_rows: int
    share: Estimate
    ordinal: Estimate | None
    interval: Estimate | None

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            "num_rows": self.num_rows,
            "share": self.share.to_json(),
            "alpha_ordinal": None if self.ordinal is None else self.ordinal.to_json(),
            "alpha_interval": None if self.interval is None else self.interval.to_json(),
        }


def read_choices(path: Path, pairs: PairedAnswers) -> dict[str, Outcome]:
    """Which answer people prefer, by row: from a rater's file, or lines of `row_id` and `choice`.

    A choice is `a` (the first model's answer), `b`, `tie`, `both_good` or `both_bad`.

    Args:
        path: The file.
        pairs: The answers that the choices are about.

    Raises:
        UserError: `ratings-invalid` where it cannot be read, or is about other rows or answers.
    """
    if path.name.startswith(PREFIX) and path.is_file():
        ratings = read_ratings(path)
        require_same_answers({rating.row_id: rating.digest for rating in ratings}, pairs, str(path))
        return outcomes_of(ratings)
    choices: dict[str, Outcome | None] = {
        row_id: KNOWN_CHOICES.get(choice) for row_id, choice in _read_labels(path, "choice").items()
    }
    known: dict[str, Outcome] = {row_id: choice for row_id, choice in choices.items() if choice is not None}
    _refuse(path, choices.keys() - known.keys(), "a choice that is none of a, b, tie, both_good and both_bad")
    different = {pair.row_id for pair in pairs.different}
    _refuse(path, known.keys() - different - {*pairs.same}, "a row_id that the evaluations do not have")
    # Rows that both models answered alike are no question, so that no judge is asked about them.
    return {row_id: choice for row_id, choice in known.items() if row_id in different}


def read_scores(path: Path, row_ids: Collection[str]) -> dict[str, int]:
    """Grades that people gave, by row: lines of `row_id` and `score`, 1 to 5.

    Args:
        path: The file.
        row_ids: Rows of the evaluation.

    Raises:
        UserError: `ratings-invalid` where it cannot be read, or is about other rows.
    """
    labels = _read_labels(path, "score")
    _refuse(path, labels.keys() - {*row_ids}, "a row_id that the evaluation does not have")
    _refuse(path, {row_id for row_id, score in labels.items() if score not in SCORES}, "a score that is none of 1 to 5")
    return {row_id: SCORES[score] for row_id, score in labels.items()}


def score_agreement(people: Mapping[str, int], judge: Mapping[str, int]) -> ScoreAgreement | None:
    """How far two agree on the rows that both graded; None where there are none.

    Args:
        people: Grades by row.
        judge: Grades by row.
    """
    units = [(people[row_id], judge[row_id]) for row_id in people if row_id in judge]
    share = agreement_share([one for one, _ in units], [other for _, other in units])
    if share is None:
        return None
    return ScoreAgreement(len(units), share, alpha_estimate(units, "ordinal"), alpha_estimate(units, "interval"))


def _read_labels(path: Path, name: str) -> dict[str, str]:
    """The value of each row as text, from lines that each name another row."""
    try:
        lines = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("ratings-invalid", f"{path} cannot be read: {error}", hint="name a file of labels") from error
    found: dict[str, str] = {}
    twice: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            value: dict[str, Any] = json.loads(line)
            row_id, label = str(value["row_id"]), str(value[name])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "ratings-invalid",
                f"{path}:{number} is no label: {error!r}",
                hint=f'write one JSON object a line, as {{"row_id": "1", "{name}": ...}}',
            ) from error
        twice |= {row_id} & found.keys()
        found[row_id] = label
    _refuse(path, twice, "a row_id that is there twice")
    return found


def _refuse(path: Path, row_ids: Collection[str], what: str) -> None:
    if row_ids:
        raise UserError(
            "ratings-invalid",
            f"{path}: {len(row_ids):,} labels have {what}",
            hint="row_id is that of rows.jsonl in the evaluation's folder",
            details=[f"row {row_id}" for row_id in sorted(row_ids)[:MAX_DETAILS]],
        )
