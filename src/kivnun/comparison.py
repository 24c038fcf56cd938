"""Runs side by side: which settings differ, what each reached, and whether they were measured on the same rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import combinations
from operator import and_
from pathlib import Path

import orjson
from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.evaluation.compare import compare_by
from kivnun.evaluation.metrics import rows_right
from kivnun.evaluation.results import PairedComparison
from kivnun.evaluation.wording import say_metric_name
from kivnun.recipe.dump import plain_value
from kivnun.recipe.fields import diff_recipes, walk_fields
from kivnun.recipe.schema import Recipe
from kivnun.runs import read_lock
from kivnun.runs.overview import EVALUATION, RunOverview, read_overview

SAMPLES_NAME = "samples.jsonl"
RESAMPLES = 2000
# Where a run was started from, not what it did.
_NOT_COMPARED = {"name"}


@dataclass(frozen=True)
class RowOverlap:
    """The rows of a split in several runs.

    Attributes:
        split: `validation` or `test`.
        counts: Number of rows of each run, in the order of the runs.
        num_common: Rows, by their content, that are in all of them.
    """

    split: str
    counts: tuple[int, ...]
    num_common: int

    @property
    def is_same(self) -> bool:
        """Whether all runs have the same rows."""
        return set(self.counts) == {self.num_common}


@dataclass(frozen=True)
class RunComparison:
    """Several runs side by side.

    Attributes:
        runs: The runs in short.
        settings: Every setting that differs, with its value in each run; None where a run has no such setting.
        overlaps: Whether validation and test rows are the same.
        pairs: For every two runs that were evaluated on the same test rows: is the later better than the earlier?
        notes: What could not be compared, and why.
    """

    runs: Sequence[RunOverview]
    settings: Mapping[str, Sequence[object]]
    overlaps: Sequence[RowOverlap]
    pairs: Sequence[PairedComparison]
    notes: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "runs": [run.to_json() for run in self.runs],
            "settings": {path: list(values) for path, values in self.settings.items()},
            "rows": [{**asdict(overlap), "same": overlap.is_same} for overlap in self.overlaps],
            "pairs": [pair.to_json() for pair in self.pairs],
            "notes": list(self.notes),
        }


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """Read two or more runs and put them side by side; what is missing in one is said and not left out silently.

    Args:
        folders: The run folders.
    """
    runs = [read_overview(folder) for folder in folders]
    notes = [f"{run.name} cannot be read: {run.problem}" for run in runs if run.state == "unreadable"]
    settings = _compare_settings(folders, notes)
    overlaps: list[RowOverlap] = []
    for split in ("validation", "test"):
        found = {folder: _row_ids(folder, split) for folder in folders}
        missing = [run.name for run, ids in zip(runs, found.values(), strict=False) if ids is None]
        if missing:
            notes.append(f"no {split} rows to compare: {', '.join(missing)} has no finished dataset")
            continue
        ids = [rows for rows in found.values() if rows is not None]
        common = reduce(and_, map(Counter, ids))
        overlaps.append(RowOverlap(split, tuple(map(len, ids)), common.total()))
    return RunComparison(runs, settings, overlaps, _compare_answers(folders, runs, notes), notes)


def _compare_settings(folders: Sequence[Path], notes: list[str]) -> dict[str, list[object]]:
    """The values of all runs for every setting in which any two differ."""
    recipes: list[Recipe | None] = []
    for folder in folders:
        try:
            recipes.append(Recipe.model_validate(read_lock(folder).recipe))
        except UserError as error:
            recipes.append(None)
            notes.append(f"the settings of {folder.name} are not compared: {error.problem}")
        except ValidationError as error:
            recipes.append(None)
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            notes.append(f"the settings of {folder.name} are not compared, its recipe is of an older form: {where}")
    known = [recipe for recipe in recipes if recipe is not None]
    differing = {
        difference.path
        for left, right in combinations(known, 2)
        for difference in diff_recipes(left, right)
        if difference.path not in _NOT_COMPARED
    }
    values = [_plain_fields(recipe) for recipe in recipes]
    return {path: [fields.get(path) for fields in values] for path in sorted(differing)}


def _plain_fields(recipe: Recipe | None) -> dict[str, object]:
    if recipe is None:
        return {}
    return {".".join(path): plain_value(value) for path, value in walk_fields(recipe)}


def _row_ids(folder: Path, split: str) -> list[str] | None:
    """Content hashes of the rows of a split; those of running text have only their place."""
    path = folder / "dataset" / f"{split}.jsonl"
    if not path.is_file():
        return None
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [row["id"] or row["where"] for row in rows]


def _compare_answers(folders: Sequence[Path], runs: Sequence[RunOverview], notes: list[str]) -> list[PairedComparison]:
    """Row by row, for every two runs with the same test rows."""
    scored = [(run.name, *_score_rows(folder, run)) for folder, run in zip(folders, runs, strict=True)]
    pairs: list[PairedComparison] = []
    for (first, metric, before), (second, other, after) in combinations(scored, 2):
        if not before or not after:
            continue
        if before.keys() != after.keys():
            notes.append(f"{first} and {second} were evaluated on different test rows; do not compare their metrics")
            continue
        if metric != other:
            names = f"{say_metric_name(metric)} and {say_metric_name(other)}"
            notes.append(f"{first} and {second} are not compared row by row: their main metrics differ, {names}")
            continue
        rows = list(before)
        scores = [[found[row] for row in rows] for found in (before, after)]
        pairs.append(compare_by(metric, (first, second), *scores, seed=0, resamples=RESAMPLES))
    return pairs


def _score_rows(folder: Path, run: RunOverview) -> tuple[str, dict[str, float]]:
    """The main metric and the tuned model's score of each test row; nothing where the evaluation is not the latest."""
    path = folder / EVALUATION / SAMPLES_NAME
    if not run.metrics or not path.is_file():
        return "", {}
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    scores = [row.get("tuned_score") for row in rows]
    if None in scores:
        # Evaluations of earlier versions have no scores; they were of labels or of texts word for word.
        task = "classification" if any(metric.name == "accuracy" for metric in run.metrics) else "generation"
        answers, references = [row["tuned_answer"] for row in rows], [row["reference"] for row in rows]
        scores = [float(is_right) for is_right in rows_right(answers, references, task=task)]
    # Rows of equal content are told apart by their place.
    places = (f"{row['row_id']} {row['where']}" for row in rows)
    return run.metrics[0].name, dict(zip(places, scores, strict=True))
