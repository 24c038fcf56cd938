"""The end of a run in a few tables on standard output."""

from rich.table import Table

from kivnun.cli.output import open_console
from kivnun.data.check_counts import say_checks
from kivnun.evaluation.results import PREFERENCE
from kivnun.evaluation.wording import say_interval, say_metric, say_metric_name, say_size, say_verdict
from kivnun.generation.agreement import ParityRow
from kivnun.results import RunResults


def print_summary(results: RunResults) -> None:
    """Print scores, verdicts, the parity table and where to look further."""
    console = open_console()
    if results.evaluation is not None:
        console.print(_score_table(results))
        evaluation = results.evaluation
        metric = evaluation.comparison.metric or next(iter(evaluation.scores[0].metrics))
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
    table.add_column("form", overflow="fold", min_width=13)
    for name in PARITY_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in results.parity:
        said = say_parity(row)
        verdict = "" if row.verdict == "passed" else f"\n[dim]{row.verdict}[/dim]"
        table.add_row(row.name + verdict, *(said[each] for each in PARITY_COLUMNS.values()))
    return table


PARITY_COLUMNS = {
    "size": "size",
    "tokens/s": "tokens_per_second",
    "1st token": "first_token_ms",
    "identical": "identical",
    "ties": "ties",
    "different": "different",
    "same tokens": "token_agreement",
    "divergence": "divergence",
    "score": "score",
}
"""Headings of the parity table, and the figure below each."""


def say_parity(row: ParityRow) -> dict[str, str]:
    """The figures of a form in words; a dash for what was not measured."""
    asked = row.num_prompts > 0
    return {
        "size": say_size(row.size_bytes),
        "tokens_per_second": _say("{:,.0f}", row.tokens_per_second),
        "first_token_ms": _say("{:,.1f} ms", row.first_token_ms),
        "identical": f"{row.identical}/{row.num_prompts}" if asked else "-",
        "ties": str(row.ties) if asked else "-",
        "different": str(row.different) if asked else "-",
        "token_agreement": _say("{:.2%}", row.token_agreement),
        "divergence": _say("{:.2g}", row.divergence),
        "score": _say("{:.1%}", row.score),
    }


def _say(words: str, value: float | None) -> str:
    return "-" if value is None else words.format(value)
