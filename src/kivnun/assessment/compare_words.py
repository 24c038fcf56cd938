"""Comparisons of models in words and table cells, the same on the command line and in the report."""

from collections.abc import Sequence

from kivnun.assessment.compare import MetricPair, PairReport, SlicePair
from kivnun.data.visible import isolate
from kivnun.evaluation.paired import ScoreComparison
from kivnun.evaluation.wording import (
    NBSP,
    say_metric,
    say_metric_name,
    say_p_value,
    say_points,
    say_rows,
)

TEST_WORDS = {"mcnemar": "exact McNemar", "permutation": "sign-flip test"}


def say_pair(report: PairReport, *, num_pairs: int) -> str:
    """One sentence: which model is better, by how much, and how sure that is.

    Args:
        report: One model against the first.
        num_pairs: How many were compared with the first, which p values are corrected for.
    """
    pair = report.main
    later, earlier = isolate(report.candidate), isolate(report.baseline)
    opening = {
        "better": f"{later} is better than {earlier}",
        "worse": f"{later} is worse than {earlier}",
        "unclear": f"no difference between {later} and {earlier} is shown",
    }[pair.verdict]
    compared, metric = pair.comparison, pair.metric
    corrected = f", corrected for {num_pairs} comparisons {say_p_value(pair.corrected_p)}" if num_pairs > 1 else ""
    return (
        f"{opening}: {say_metric_name(metric)} {say_metric(metric, compared.candidate_mean)} against "
        f"{say_metric(metric, compared.baseline_mean)} on {say_rows(compared.num_rows)}, a difference of "
        f"{say_points(compared.difference.value)}{NBSP}points (95{NBSP}% interval {_interval(compared)}; "
        f"{TEST_WORDS[compared.test]} {say_p_value(compared.p_value)}{corrected})"
    )


def say_changes(report: PairReport) -> str:
    """How many rows became worse and better.

    Args:
        report: One model against the first.
    """
    compared = report.main.comparison
    return (
        f"{say_rows(compared.losses)} answered worse, {say_rows(compared.wins)} better, {say_rows(compared.ties)} alike"
    )


def metric_columns(report: PairReport) -> tuple[str, ...]:
    """Headings of `metric_cells`.

    Args:
        report: One model against the first.
    """
    return ("metric", isolate(report.baseline), isolate(report.candidate), "difference", "95 % interval", "p", "")


def metric_cells(pairs: Sequence[MetricPair]) -> list[tuple[str, ...]]:
    """One row of cells for each metric; p values are corrected for the number of models.

    Args:
        pairs: The metrics.
    """
    words = {"better": "better", "worse": "worse", "unclear": ""}
    return [
        (
            say_metric_name(pair.metric),
            *_values(pair.metric, pair.comparison),
            say_p_value(pair.corrected_p),
            words[pair.verdict],
        )
        for pair in pairs
    ]


def slice_columns(report: PairReport) -> tuple[str, ...]:
    """Headings of `slice_cells`.

    Args:
        report: One model against the first.
    """
    names = isolate(report.baseline), isolate(report.candidate)
    return ("by", "part", "rows", *names, "difference", "95 % interval", "p, not corrected")


def slice_cells(parts: Sequence[SlicePair], metric: str) -> list[tuple[str, ...]]:
    """One row of cells for each part of the rows.

    Args:
        parts: The parts.
        metric: The metric.
    """
    return [
        (
            isolate(part.by),
            isolate(part.value),
            f"{part.comparison.num_rows:,}",
            *_values(metric, part.comparison),
            say_p_value(part.comparison.p_value),
        )
        for part in parts
    ]


def _values(metric: str, compared: ScoreComparison) -> tuple[str, str, str, str]:
    before, after = say_metric(metric, compared.baseline_mean), say_metric(metric, compared.candidate_mean)
    return before, after, say_points(compared.difference.value), _interval(compared)


def _interval(compared: ScoreComparison) -> str:
    return f"{say_points(compared.difference.low)} to {say_points(compared.difference.high)}"
