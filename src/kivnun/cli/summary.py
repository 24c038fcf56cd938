"""The end of a run in a few tables on standard output."""

from rich.console import Console
from rich.table import Table

from kivnun.data.check_counts import say_checks
from kivnun.evaluation.results import MAIN_METRICS, PREFERENCE
from kivnun.evaluation.wording import say_interval, say_metric, say_metric_name, say_size, say_verdict
from kivnun.results import RunResults

PIPE_WIDTH = 120


def print_summary(results: RunResults) -> None:
    """Print scores, verdicts, the parity table and where to look further."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # In a file or a pipe there is no edge to wrap at.
        console = Console(highlight=False, width=PIPE_WIDTH)
    if results.evaluation is not None:
        console.print(_score_table(results))
        metric = next(name for name in MAIN_METRICS.values() if name in results.evaluation.scores[0].metrics)
        evaluation = results.evaluation
        named = (
            (evaluation.preference_comparison, PREFERENCE),
            (evaluation.comparison, metric),
            (evaluation.yardstick_comparison, metric),
        )
        for comparison, name in named:
            if comparison is not None:
                console.print(say_verdict(comparison, metric=name), markup=False)
    if results.parity:
        console.print(_parity_table(results))
    for line in say_checks(results.checks):
        console.print(f"data: {line}", markup=False)
    console.print(f"report: {results.report}", markup=False)
    if results.parity:
        console.print(f'try it: kivnun generate {results.folder} "..."', markup=False)


def _score_table(results: RunResults) -> Table:
    assert results.evaluation is not None  # noqa: S101 - asked for only where there is one
    scores = results.evaluation.scores
    metrics = list(dict.fromkeys(name for each in scores for name in each.metrics))
    table = Table(title=f"{scores[0].num_rows} test rows, 95 % intervals", title_justify="left")
    table.add_column("")
    for metric in metrics:
        table.add_column(say_metric_name(metric), justify="right")
    for each in scores:
        cells = [each.metrics.get(metric) for metric in metrics]
        values = [
            f"{say_metric(metric, cell.value)}\n[dim]{say_interval(metric, cell)}[/dim]" if cell else "-"
            for metric, cell in zip(metrics, cells, strict=True)
        ]
        table.add_row(each.name, *values)
    return table


def _parity_table(results: RunResults) -> Table:
    table = Table(title="Every form of the model, asked the same", title_justify="left")
    for name in ("form", "size", "tokens/s", "identical", "ties", "different", "score"):
        table.add_column(name, justify="left" if name == "form" else "right")
    for row in results.parity:
        share = f"{row.identical}/{row.num_prompts}"
        score = "-" if row.score is None else f"{row.score:.1%}"
        size, speed = say_size(row.size_bytes), f"{row.tokens_per_second:,.0f}"
        table.add_row(row.name, size, speed, share, str(row.ties), str(row.different), score)
    return table
