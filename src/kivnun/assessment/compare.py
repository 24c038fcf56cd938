"""`kivnun compare`: models on the same rows, each against the first, with what broke before what was mended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kivnun.assessment.folder import AnsweredRow
from kivnun.assessment.pairs import comparison_folder, read_pairs
from kivnun.assessment.sides import Side
from kivnun.assessment.verdicts import Verdicts, read_verdicts
from kivnun.errors import UserError
from kivnun.evaluation.paired import ScoreComparison, compare_scores, holm, judge_difference
from kivnun.evaluation.power import say_power
from kivnun.evaluation.results import Verdict
from kivnun.evaluation.scoring import RowScores
from kivnun.evaluation.slices import BY_ITSELF, MAX_VALUES, OTHERS, slice_scores, slice_values

MAX_PLACES = 5
RESAMPLES = 2000
FEW_IN_SLICE = 5
"""Parts with fewer rows are not compared: no difference could be shown."""


@dataclass(frozen=True)
class MetricPair:
    """A metric of two models.

    Attributes:
        metric: The metric.
        comparison: Of the two.
        corrected_p: Its p value, corrected for the number of models that are compared with the first (Holm).
    """

    metric: str
    comparison: ScoreComparison
    corrected_p: float

    @property
    def verdict(self) -> Verdict:
        """Whether the candidate is better, by the corrected p value."""
        return judge_difference(self.comparison.difference, self.corrected_p)

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {
            **self.comparison.to_json(),
            "metric": self.metric,
            "corrected_p": self.corrected_p,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class SlicePair:
    """The main metric of two models on a part of the rows; its p value is not corrected.

    Attributes:
        by: What parts the rows.
        value: What they have in common.
        comparison: Of the two.
    """

    by: str
    value: str
    comparison: ScoreComparison

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return {"by": self.by, "value": self.value, **self.comparison.to_json()}


@dataclass(frozen=True)
class Change:
    """A row that one model answers better than the other.

    Attributes:
        before: The first model's row.
        after: The other's.
        difference: The other's main score minus the first one's.
    """

    before: AnsweredRow
    after: AnsweredRow
    difference: float

    def to_json(self) -> dict[str, object]:
        """The row and both answers as JSON values."""
        row = self.before.row
        return {
            "row_id": row.row_id,
            "where": row.where,
            "prompt": row.prompt,
            "references": list(row.references),
            "baseline_answer": self.before.answer,
            "candidate_answer": self.after.answer,
            "difference": self.difference,
        }


@dataclass(frozen=True)
class PairReport:
    """One model against the first.

    Attributes:
        baseline: Name of the first.
        candidate: Name of the other.
        metrics: Every metric that both have of each row, the main one first.
        slices: Parts of the rows.
        regressions: Rows that the other answers worse, the largest loss first.
        fixes: Rows that it answers better, the largest gain first.
        power: What so many rows can show, where no difference is shown; else "".
        verdicts: What people and judges said; None where nobody did.
        folder: Where that is kept; None for runs' own evaluations.
    """

    baseline: str
    candidate: str
    metrics: Sequence[MetricPair]
    slices: Sequence[SlicePair]
    regressions: Sequence[Change]
    fixes: Sequence[Change]
    power: str
    verdicts: Verdicts | None
    folder: Path | None

    @property
    def main(self) -> MetricPair:
        """The metric that decides."""
        return self.metrics[0]

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values, the regressions first."""
        return {
            "baseline": self.baseline,
            "candidate": self.candidate,
            "verdict": self.main.verdict,
            "metrics": [pair.to_json() for pair in self.metrics],
            "slices": [part.to_json() for part in self.slices],
            "power": self.power,
            "people_and_judges": None if self.verdicts is None else self.verdicts.to_json(),
            "regressions": [change.to_json() for change in self.regressions],
            "fixes": [change.to_json() for change in self.fixes],
        }


@dataclass(frozen=True)
class ModelComparison:
    """Several models on the same rows.

    Attributes:
        sides: The models; every other one is compared with the first.
        main: The metric that decides.
        num_rows: Rows.
        pairs: Each against the first.
        notes: What a reader must know.
    """

    sides: Sequence[Side]
    main: str
    num_rows: int
    pairs: Sequence[PairReport]
    notes: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "main": self.main,
            "num_rows": self.num_rows,
            "models": [
                {
                    "name": side.name,
                    "folder": None if side.folder is None else str(side.folder),
                    "metrics": {name: value.to_json() for name, value in side.evaluated.metrics.items()},
                }
                for side in self.sides
            ],
            "pairs": [pair.to_json() for pair in self.pairs],
            "notes": list(self.notes),
        }


def compare_models(sides: Sequence[Side], *, folder: Path | None = None, seed: int = 0) -> ModelComparison:
    """Compare each model with the first one, row by row.

    Args:
        sides: The models.
        folder: Where people's and judges' verdicts lie; None for `comparisons/<A>-vs-<B>` of each two.
        seed: Of the resampling behind intervals.

    Raises:
        UserError: `rows-differ` where they were not asked the same; `evaluation-invalid` where they were not measured
            alike; `ratings-invalid`.
    """
    first = sides[0]
    aligned = [first, *(_align(first, side) for side in sides[1:])]
    main = first.evaluated.main
    others = [side.name for side in aligned if side.evaluated.main != main]
    if others:
        raise UserError(
            "evaluation-invalid",
            f"{first.name} is measured by {main}, {others[0]} by another metric",
            hint="evaluate both with the same --task",
        )
    scores = [side.evaluated.row_scores for side in aligned]
    metrics = [main, *(name for name in scores[0].metrics if name != main and all(name in s.metrics for s in scores))]
    by_metric = {name: _compare_metric(name, aligned, scores, seed) for name in metrics}
    pairs = [
        _report(first, side, [by_metric[name][number] for name in metrics], folder, seed)
        for number, side in enumerate(aligned[1:])
    ]
    return ModelComparison(aligned, main, len(first.evaluated.rows), pairs, _notes(aligned))


def _align(first: Side, other: Side) -> Side:
    """The other's rows in the order of the first one's.

    Raises:
        UserError: `rows-differ`.
    """
    rows = {row.row.row_id: row for row in other.evaluated.rows}
    wanted = {row.row.row_id: row for row in first.evaluated.rows}
    only_first = [row.row.where for row_id, row in wanted.items() if row_id not in rows]
    only_other = [row.row.where for row_id, row in rows.items() if row_id not in wanted]
    differing = [
        row.row.where
        for row_id, row in wanted.items()
        if row_id in rows and set(row.row.references) != set(rows[row_id].row.references)
    ]
    if only_first or only_other or differing:
        details = [f"only {first.name}: {where}" for where in only_first[:MAX_PLACES]]
        details += [f"only {other.name}: {where}" for where in only_other[:MAX_PLACES]]
        details += [f"other right answers: {where}" for where in differing[:MAX_PLACES]]
        raise UserError(
            "rows-differ",
            f"{first.name} answered {len(wanted):,} rows and {other.name} {len(rows):,}; "
            f"{len(wanted) - len(only_first):,} of them are the same",
            details=details,
            hint="evaluate both on the same rows, written with the same template: the same --data or --recipe",
        )
    return replace(other, evaluated=replace(other.evaluated, rows=[rows[row_id] for row_id in wanted]))


def _compare_metric(name: str, sides: Sequence[Side], scores: Sequence[RowScores], seed: int) -> list[MetricPair]:
    before = scores[0].metrics[name]
    found = [
        compare_scores((sides[0].name, side.name), before, after.metrics[name], seed=seed, resamples=RESAMPLES)
        for side, after in zip(sides[1:], scores[1:], strict=True)
    ]
    corrected = holm([each.p_value for each in found])
    return [MetricPair(name, each, p_value) for each, p_value in zip(found, corrected, strict=True)]


def _report(first: Side, other: Side, metrics: Sequence[MetricPair], folder: Path | None, seed: int) -> PairReport:
    main = metrics[0].metric
    changes = [
        Change(before, after, after.scores[main] - before.scores[main])
        for before, after in zip(first.evaluated.rows, other.evaluated.rows, strict=True)
    ]
    worse = sorted((each for each in changes if each.difference < 0), key=lambda each: each.difference)
    better = sorted((each for each in changes if each.difference > 0), key=lambda each: -each.difference)
    differences = [each.difference for each in changes]
    power = say_power(len(differences), differences) if metrics[0].verdict == "unclear" else ""
    verdicts, place = _verdicts(first, other, folder)
    slices = _compare_slices(first, other, main, seed)
    return PairReport(first.name, other.name, metrics, slices, worse, better, power, verdicts, place)


def _verdicts(first: Side, other: Side, folder: Path | None) -> tuple[Verdicts | None, Path | None]:
    """What people and judges said about two folders of evaluations."""
    if first.folder is None or other.folder is None:
        return None, None
    place = folder or comparison_folder(first.folder, other.folder)
    return (read_verdicts(place, read_pairs(first.folder, other.folder)) if place.is_dir() else None), place


def _compare_slices(first: Side, other: Side, main: str, seed: int) -> list[SlicePair]:
    rows = [row.row for row in first.evaluated.rows]
    pairs: list[SlicePair] = []
    for by in _parted_by(first):
        values = slice_values(rows, by)
        # The largest part first, lengths from short to long, as an evaluation lists them.
        ordered = [part.value for part in slice_scores(rows, [0.0] * len(rows), by)]
        for value in ordered if len(set(values)) > 1 else ():
            numbers = [number for number, each in enumerate(values) if each == value]
            if len(numbers) < FEW_IN_SLICE:
                continue
            before, after = (
                [side.evaluated.rows[number].scores[main] for number in numbers] for side in (first, other)
            )
            compared = compare_scores((first.name, other.name), before, after, seed=seed, resamples=RESAMPLES)
            pairs.append(SlicePair(by, value, compared))
    return pairs


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = [f"{side.name}: {note}" for side in sides for note in side.evaluated.notes if "can show" not in note]
    instructions = {side.evaluated.about.get("instruction") for side in sides}
    if len(instructions) > 1:
        notes.append("the models were not given the same instruction")
    limits = {side.evaluated.about["settings"].get("max_new_tokens") for side in sides}
    if len(limits) > 1:
        notes.append("the longest answer that was allowed differs")
    notes += [f"{what} differs between the models, and what it measures too" for what in _differing(sides)]
    left_out = _parts_left_out(sides[0])
    if left_out:
        few = f"fewer than {FEW_IN_SLICE} rows, or are what is left beyond the {MAX_VALUES} commonest values"
        notes.append(f"parts of the rows that are not compared, since they have {few}: {left_out:,}")
    return notes


def _parts_left_out(side: Side) -> int:
    rows = [row.row for row in side.evaluated.rows]
    parts = [slice_scores(rows, [0.0] * len(rows), by) for by in _parted_by(side)]
    return sum(
        part.num_rows < FEW_IN_SLICE or part.value == OTHERS for found in parts if len(found) > 1 for part in found
    )


def _parted_by(side: Side) -> list[str]:
    """What the rows are parted by: as was asked for, and what every row has."""
    return list(dict.fromkeys((*(side.evaluated.about["settings"].get("slices") or ()), *BY_ITSELF)))


def _differing(sides: Sequence[Side]) -> list[str]:
    """What scores depend on beyond answers and rows, where it is not the same for all: schema and own metrics."""
    settings: list[Mapping[str, object]] = [side.evaluated.about["settings"] for side in sides]
    names = dict.fromkeys(name for each in settings for name in each if name.startswith("metric "))
    words = {"json_schema": "the JSON Schema", **{name: f"the source of the {name}" for name in names}}
    return [word for name, word in words.items() if any(each.get(name) != settings[0].get(name) for each in settings)]
