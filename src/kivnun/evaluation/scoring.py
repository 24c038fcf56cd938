"""From answers to scores: what is measured of each row, and what that adds up to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import orjson

from kivnun.data.sources import first_problems
from kivnun.errors import UserError
from kivnun.evaluation.code_answers import run_all
from kivnun.evaluation.corpus_metrics import CORPUS_METRICS, LABEL_METRICS, corpus_metric
from kivnun.evaluation.intervals import mean_estimate
from kivnun.evaluation.json_answers import keeps_schema, make_validator, read_items, read_schema
from kivnun.evaluation.metrics import first_line, normalize_text
from kivnun.evaluation.own_metrics import describe_own, load_own, own_names, score_own
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.row_metrics import JSON_METRICS, PAIR_METRICS, WHOLE_METRICS, row_metric
from kivnun.evaluation.tasks import TASKS, WITHOUT_RUNNING, TaskMetrics
from kivnun.recipe.schema import EvaluationSection

IN_LABELS, SCHEMA_VALID, PASSES = "in_label_set", "schema_valid", "pass_at_1"
LABELS_NEEDED = (IN_LABELS, *LABEL_METRICS)
LIKELIHOODS = ("perplexity", "bits_per_byte")
"""Measured of right answers where a model tells their likelihood, whatever the task; nobody asks for them by name."""


@dataclass(frozen=True)
class ScoredRow:
    """A row as it is scored.

    Attributes:
        row_id: Content hash.
        where: `file:line`.
        prompt: What is asked.
        references: Every right answer, the row's own first.
        fields: The row's fields.
    """

    row_id: str
    where: str
    prompt: str
    references: tuple[str, ...]
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Scoring:
    """How answers are scored.

    Attributes:
        task: The task, a key of `TASKS`.
        labels: The label set of a classification.
        metrics: Metrics beside those of the task.
        json_schema: What every answer should keep; None where there is none.
        tests: Column with tests of the task code.
        run_code: Whether programs may be run.
        seed: Of the resampling behind intervals.
        resamples: How many.
    """

    task: str
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    tests: str | None = None
    run_code: bool = False
    seed: int = 0
    resamples: int = 1000

    @property
    def measured(self) -> TaskMetrics:
        """The metrics of the task, without those that need programs to run where none may."""
        return WITHOUT_RUNNING if self.task == "code" and not self.run_code else TASKS[self.task]

    @property
    def main(self) -> str:
        """The metric by which two systems are compared."""
        return self.measured.main

    @property
    def row_names(self) -> tuple[str, ...]:
        """Metrics that every row has, the main one first."""
        asked = tuple(name for name in self.metrics if name not in CORPUS_METRICS)
        schema = () if self.json_schema is None else (SCHEMA_VALID,)
        return tuple(dict.fromkeys((*self.measured.rows, *schema, *asked)))

    @property
    def corpus_names(self) -> tuple[str, ...]:
        """Metrics of all rows together."""
        return tuple(dict.fromkeys((*self.measured.corpus, *(name for name in self.metrics if name in CORPUS_METRICS))))


@dataclass(frozen=True)
class RowScores:
    """Metrics of each row.

    Attributes:
        main: The metric by which two systems are compared.
        metrics: By name, from 0 to 1 for each row in their order.
    """

    main: str
    metrics: Mapping[str, tuple[float, ...]]

    @property
    def main_scores(self) -> tuple[float, ...]:
        """The main metric of each row."""
        return self.metrics[self.main]


def scoring_of(section: EvaluationSection, labels: Sequence[str] = ()) -> Scoring:
    """How a recipe wants answers scored.

    Args:
        section: The recipe's `evaluation`.
        labels: The label set of a classification.

    Raises:
        UserError: `metric-invalid` for metrics that do not exist or do not fit the task; `evaluation-invalid` for a
            schema that is none.
    """
    scoring = Scoring(
        task=section.task,
        labels=tuple(labels),
        metrics=section.metrics,
        json_schema=None if section.json_schema is None else read_schema(section.json_schema),
        tests=section.tests,
        run_code=section.run_code,
        seed=section.seed,
        resamples=section.resamples,
    )
    require_metrics(scoring)
    return scoring


def require_metrics(scoring: Scoring) -> None:
    """Refuse metrics that do not exist, or that the task cannot have.

    Args:
        scoring: How answers are scored.

    Raises:
        UserError: `metric-invalid`.
    """
    own = own_names()
    built_in = [*PAIR_METRICS, *WHOLE_METRICS, *CORPUS_METRICS, IN_LABELS, SCHEMA_VALID, PASSES]
    for name in scoring.metrics:
        if name in LIKELIHOODS:
            _refuse(name, "is measured by itself where a model tells likelihoods", "leave it out")
        if name not in built_in and name not in own:
            _refuse_unknown(name, sorted({*built_in, *own}))
        if name in built_in and name in own:
            _refuse(name, "is a metric of Kivnun and of an installed package", "give yours another name")
        if name in LABELS_NEEDED and scoring.task != "classification":
            _refuse(name, f"needs labels, which the task {scoring.task} has not", "leave it out")
        if name == SCHEMA_VALID and scoring.json_schema is None:
            _refuse(name, "needs a JSON Schema", "name its file in evaluation.json_schema")
        if name == PASSES and not scoring.run_code:
            _refuse(name, "runs answers", "set evaluation.task: code, tests and run_code: true")
        if name not in built_in:
            load_own(name)


def describe_scoring(scoring: Scoring) -> dict[str, object]:
    """What an evaluation depends on beyond its section: the schema's content, and the source of own metrics.

    Args:
        scoring: How answers are scored.

    Raises:
        UserError: `metric-invalid` where one of your own cannot be loaded.
    """
    own = set(own_names())
    return {
        **({} if scoring.json_schema is None else {"json_schema": dict(scoring.json_schema)}),
        **{f"metric {name}": describe_own(name) for name in scoring.metrics if name in own},
    }


def read_references(answer: str, fields: Mapping[str, str], column: str | None, where: str) -> tuple[str, ...]:
    """Every right answer of a row, its own first.

    Args:
        answer: The row's own answer.
        fields: The row's fields.
        column: Column with further ones, a JSON list of texts; None for none. An empty cell adds none.
        where: `file:line` of the row.

    Raises:
        UserError: `evaluation-invalid` where the column is missing or holds anything else.
    """
    if column is None:
        return (answer,)
    if column not in fields:
        raise UserError(
            "evaluation-invalid",
            f"{where}: no column {column!r} of further right answers",
            details=[f"columns: {', '.join(fields)}"],
            hint="name a column that every row has in evaluation.references, or leave it out",
        )
    text = fields[column].strip()
    try:
        found: object = orjson.loads(text) if text else []
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in cast("list[object]", found)):
        raise UserError(
            "evaluation-invalid",
            f"{where}: {column} should be a JSON list of texts, got {text[:60]!r}",
            hint='write such as ["in 1969", "1969"]',
        )
    return tuple(dict.fromkeys((answer, *cast("list[str]", found))))


def require_scorable(rows: Sequence[ScoredRow], scoring: Scoring) -> None:
    """Refuse rows to which no answer could be scored.

    Args:
        rows: The rows.
        scoring: How answers are scored.

    Raises:
        UserError: `evaluation-invalid`, naming the rows; `split-too-small` where there is none.
    """
    if not rows:
        raise UserError(
            "split-too-small",
            "there is no row to evaluate on",
            hint="give data.test a file or data.split.test a larger share",
        )
    empty = [row.where for row in rows if not any(each.strip() for each in row.references)]
    _refuse_rows(empty, len(rows), "have no right answer", "give each row an answer, or take it out")
    if JSON_METRICS & {*scoring.row_names, *scoring.corpus_names}:
        unread = [row.where for row in rows if any(read_items(each) is None for each in row.references)]
        hint = 'write answers such as {"city": "Haifa"} or [{"label": "PER", "text": "Dana"}]'
        _refuse_rows(unread, len(rows), "have a right answer that is no JSON object or list", hint)
    if scoring.run_code and scoring.tests is not None:
        column = scoring.tests
        untested = [row.where for row in rows if not row.fields.get(column, "").strip()]
        _refuse_rows(untested, len(rows), f"have no tests in {column!r}", "give each row Python asserts in this column")
        passed = run_all([(row.references[0], row.fields[column]) for row in rows])
        failing = [row.where for row, is_right in zip(rows, passed, strict=True) if not is_right]
        _refuse_rows(failing, len(rows), "have a right answer that fails its own tests", "mend the answer or the tests")


def score_rows(answers: Sequence[str], rows: Sequence[ScoredRow], scoring: Scoring) -> RowScores:
    """Every metric of every row.

    Args:
        answers: What was answered, in the order of the rows.
        rows: The rows.
        scoring: How answers are scored.

    Raises:
        UserError: `metric-invalid` where one of your own gives no number from 0 to 1.
    """
    if len(answers) != len(rows):
        raise ValueError(f"{len(answers)} answers to {len(rows)} rows")
    return RowScores(scoring.main, {name: _score_by(name, answers, rows, scoring) for name in scoring.row_names})


def summarise(
    answers: Sequence[str], rows: Sequence[ScoredRow], row_scores: RowScores, scoring: Scoring
) -> dict[str, Estimate]:
    """Means with intervals, and the metrics of all rows together; the main one comes first.

    Args:
        answers: What was answered.
        rows: The rows.
        row_scores: Of `score_rows`.
        scoring: How answers are scored.
    """
    options = {"seed": scoring.seed, "resamples": scoring.resamples}
    references = [row.references for row in rows]
    whole = {name: corpus_metric(name, answers, references, scoring.labels, **options) for name in scoring.corpus_names}
    means = {name: mean_estimate(scores, **options) for name, scores in row_scores.metrics.items()}
    return {scoring.main: means.pop(scoring.main), **whole, **means}


def mean_score(task: str, answers: Sequence[str], references: Sequence[str]) -> float:
    """The mean of a task's main metric; programs are compared and not run.

    Args:
        task: The task.
        answers: What was answered.
        references: What would be right.
    """
    rows = [ScoredRow("", "", "", (reference,), {}) for reference in references]
    scores = score_rows(answers, rows, Scoring(task)).main_scores
    return sum(scores) / len(scores)


def _score_by(name: str, answers: Sequence[str], rows: Sequence[ScoredRow], scoring: Scoring) -> tuple[float, ...]:
    pairs = list(zip(answers, rows, strict=True))
    if name == IN_LABELS:
        labels = set(map(normalize_text, scoring.labels))
        return tuple(float(first_line(answer) in labels) for answer in answers)
    if name == SCHEMA_VALID:
        validator = make_validator(scoring.json_schema or {})
        return tuple(keeps_schema(answer, validator) for answer in answers)
    if name == PASSES:
        return tuple(map(float, run_all([(answer, row.fields[scoring.tests or ""]) for answer, row in pairs])))
    if name in PAIR_METRICS or name in WHOLE_METRICS:
        return tuple(row_metric(name, answer, row.references) for answer, row in pairs)
    own = load_own(name)
    return tuple(score_own(name, own, answer, row.references, (row.where, row.fields)) for answer, row in pairs)


def _refuse_rows(places: Sequence[str], num_rows: int, problem: str, hint: str) -> None:
    if places:
        text = f"{len(places)} of {num_rows} rows to evaluate on {problem}"
        raise UserError("evaluation-invalid", text, details=first_problems(list(places)), hint=hint)


def _refuse(name: str, why: str, hint: str) -> None:
    raise UserError("metric-invalid", f"evaluation.metrics: {name} {why}", hint=hint)


def _refuse_unknown(name: str, known: Sequence[str]) -> None:
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    raise UserError(
        "metric-invalid",
        f"evaluation.metrics: no metric `{name}`{meant}",
        details=[f"known: {', '.join(known)}"],
        hint="one of your own is installed as an entry point of the group kivnun.metrics",
    )
