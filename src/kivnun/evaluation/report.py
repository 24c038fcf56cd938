"""The report of one run: a single HTML file that needs no network and no script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kivnun.evaluation import wording
from kivnun.evaluation.compare import Outcome, OutcomeGroups
from kivnun.evaluation.plot_forms import draw_forms
from kivnun.evaluation.plots import draw_losses
from kivnun.evaluation.results import (
    BASE,
    MAJORITY,
    PREFERENCE,
    TUNED,
    Confusion,
    Estimate,
    PairedComparison,
    Scores,
    Task,
)
from kivnun.evaluation.slices import FIELD, SliceScore
from kivnun.evaluation.tasks import TASKS
from kivnun.generation.agreement import ParityRow

TEMPLATE = "report.html.jinja"
SMALL_SPLIT = 50
LONG_TEXT = 1200


@dataclass(frozen=True)
class ReportInput:
    """Everything that the report shows, as plain values."""

    title: str
    created: str
    task: Task
    recipe_yaml: str
    lock: Mapping[str, object]
    train_losses: Sequence[tuple[int, float]]
    validation_losses: Sequence[tuple[int, float]]
    best_step: int | None
    scores: Sequence[Scores]
    comparison: PairedComparison | None
    outcomes: OutcomeGroups | None
    yardstick_comparison: PairedComparison | None = None
    preference_comparison: PairedComparison | None = None
    perplexity_ratio: Estimate | None = None
    slices: Mapping[str, Sequence[SliceScore]] = field(default_factory=dict[str, Sequence[SliceScore]])
    parity: Sequence[ParityRow] = ()
    durations: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    check_page: str | None = None
    max_rows_shown: int = 40


@dataclass(frozen=True)
class Cell:
    """One metric of one system, ready to print."""

    metric: str
    value: str
    interval: str
    is_best: bool
    bar: tuple[float, float, float] | None


@dataclass(frozen=True)
class RowGroup:
    """One group of compared rows and how many of them are left out."""

    anchor: str
    title: str
    meaning: str
    rows: Sequence[Outcome]
    num_rows: int

    @property
    def num_hidden(self) -> int:
        """How many rows of the group are not shown."""
        return self.num_rows - len(self.rows)


def render_report(report: ReportInput) -> str:
    """The whole page as HTML text; every value from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "duration": wording.say_duration,
        "size": wording.say_size,
        "percent": wording.say_percent,
        "metric_name": wording.say_metric_name,
        "metric_value": lambda value, metric: wording.say_metric(metric, value),
        "clip": clip_text,
    }
    metrics = list(dict.fromkeys(name for scores in report.scores for name in scores.metrics))
    return environment.get_template(TEMPLATE).render(
        report=report,
        verdicts=_verdicts(report),
        verdict_words=wording.VERDICT_WORDS,
        perplexity_sentence=report.perplexity_ratio and wording.say_perplexity_ratio(report.perplexity_ratio),
        metrics=metrics,
        score_rows=[(scores, score_cells(scores, report.scores, metrics)) for scores in report.scores],
        groups=_group_rows(report),
        confusions=_confusions(report.scores),
        charts=_charts(report),
        lock_json=json.dumps(report.lock, indent=2, ensure_ascii=False, default=str),
        scores_of=lambda outcome: outcome.scores(task=report.task),
        main_metric=_main_metric(report),
        lower_is_better=wording.LOWER_IS_BETTER,
        is_graded=_is_graded(report),
        slice_rows=_slice_rows(report),
        is_small=report.comparison is not None and report.comparison.num_rows < SMALL_SPLIT,
    )


def clip_text(text: str) -> str:
    """Long texts up to a limit, saying how much is left out."""
    hidden = len(text) - LONG_TEXT
    return text if hidden <= 0 else f"{text[:LONG_TEXT]}… ({hidden:,} more characters)"


def score_cells(scores: Scores, everyone: Sequence[Scores], metrics: Sequence[str]) -> list[Cell | None]:
    """One table row: each metric with its interval, a bar where 0 to 1 is the scale, and whether it is the best."""
    cells: list[Cell | None] = []
    for metric in metrics:
        estimate = scores.metrics.get(metric)
        if estimate is None:
            cells.append(None)
            continue
        values = [other.metrics[metric].value for other in everyone if metric in other.metrics]
        is_lower_better = metric in wording.LOWER_IS_BETTER
        best = min(values) if is_lower_better else max(values)
        cells.append(
            Cell(
                metric=metric,
                value=wording.say_metric(metric, estimate.value),
                interval=wording.say_interval(metric, estimate),
                is_best=len(values) > 1 and estimate.value == best and min(values) != max(values),
                bar=(estimate.low, estimate.value, estimate.high) if not is_lower_better else None,
            )
        )
    return cells


def confusion_shades(confusion: Confusion) -> list[tuple[str, int, list[tuple[int, float]]]]:
    """For each true label: its row count and each cell with its share of the row, which gives the colour."""
    return [
        (label, sum(counts), [(count, count / max(1, sum(counts))) for count in counts])
        for label, counts in zip(confusion.labels, confusion.counts, strict=True)
    ]


def _main_metric(report: ReportInput) -> str:
    """The metric by which the models are compared; results of earlier versions do not name it."""
    named = report.comparison.metric if report.comparison is not None else ""
    return named or TASKS[report.task].main


def _is_graded(report: ReportInput) -> bool:
    return report.comparison is not None and report.comparison.means is not None


def _slice_rows(report: ReportInput) -> list[tuple[SliceScore, list[tuple[str, str]]]]:
    """Each part of the rows with what both models reach on it; both were asked the same rows."""
    main = _main_metric(report)
    names = [name for name in (BASE, TUNED) if name in report.slices]
    rows: list[tuple[SliceScore, list[tuple[str, str]]]] = []
    for parts in zip(*(report.slices[name] for name in names), strict=True):
        metric = "fields_right" if parts[0].by == FIELD else main
        said = [
            (wording.say_metric(metric, part.score.value), wording.say_interval(metric, part.score)) for part in parts
        ]
        rows.append((parts[0], said))
    return rows


def _verdicts(report: ReportInput) -> list[tuple[PairedComparison, str]]:
    metric = _main_metric(report)
    named = (
        # What a preference is trained for says more than whether an answer is repeated word by word.
        (report.preference_comparison, PREFERENCE),
        (report.comparison, metric),
        (report.yardstick_comparison, metric),
    )
    return [(pair, wording.say_verdict(pair, metric=name)) for pair, name in named if pair is not None]


def _group_rows(report: ReportInput) -> list[RowGroup]:
    if report.outcomes is None:
        return []
    meanings = (
        ("the tuned model scores lower", "the tuned model scores higher", "both score the same, and not the highest")
        if _is_graded(report)
        else (
            "the base model was right, the tuned model is wrong",
            "the base model was wrong, the tuned model is right",
            "neither model is right",
        )
    )
    outcomes = report.outcomes
    named = [
        ("regressions", "Regressions", meanings[0], outcomes.regressions),
        ("fixes", "Fixes", meanings[1], outcomes.fixes),
        ("both-wrong", "Both wrong", meanings[2], outcomes.both_wrong),
    ]
    return [
        RowGroup(anchor, title, meaning, rows[: report.max_rows_shown], len(rows))
        for anchor, title, meaning, rows in named
    ]


def _confusions(everyone: Sequence[Scores]) -> list[tuple[Scores, list[tuple[str, int, list[tuple[int, float]]]]]]:
    """The tuned model's matrix first, then the base's, then the yardsticks that do more than repeat one label."""
    order = {TUNED: 0, BASE: 1}
    shown = [scores for scores in everyone if scores.confusion is not None and scores.name != MAJORITY]
    shown.sort(key=lambda scores: order.get(scores.name, len(order)))
    return [(scores, confusion_shades(scores.confusion)) for scores in shown if scores.confusion is not None]


def _charts(report: ReportInput) -> dict[str, Markup | None]:
    losses = (report.train_losses, report.validation_losses, report.best_step)
    return {
        "wide": draw_losses(*losses, width=760, height=300),
        "narrow": draw_losses(*losses, width=360, height=260),
        "forms_wide": draw_forms(report.parity, width=760, height=300),
        "forms_narrow": draw_forms(report.parity, width=360, height=260),
    }
