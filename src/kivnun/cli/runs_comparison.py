"""Runs side by side on the terminal: settings that differ, what each reached, and what can be said of it."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kivnun.cli.runs_table import open_console, say_best, say_metric_value, say_speed
from kivnun.comparison import RowOverlap, RunComparison
from kivnun.data.visible import isolate, make_visible
from kivnun.evaluation.results import PairedComparison
from kivnun.evaluation.wording import say_metric, say_metric_name, say_percent, say_points, say_size, say_test
from kivnun.recipe.dump import dump_value
from kivnun.runs.overview import RunOverview


def print_comparison(comparison: RunComparison) -> None:
    """Print what differs, what each run reached, and what can be said of the differences."""
    console = open_console()
    names = [isolate(run.name) for run in comparison.runs]
    if comparison.settings:
        rows = [[path, *map(_say_setting, values)] for path, values in comparison.settings.items()]
        console.print(_table(["setting", *names], rows))
    else:
        console.print("no setting differs", markup=False)
    console.print(_table(["result", *names], list(_result_rows(comparison.runs)), justify="right"))
    for overlap in comparison.overlaps:
        console.print(make_visible(say_overlap(overlap)), markup=False)
    for pair in comparison.pairs:
        console.print(say_pair(pair), markup=False)
    for note in comparison.notes:
        console.print(f"note: {make_visible(note)}", markup=False)


def say_overlap(overlap: RowOverlap) -> str:
    """Whether the rows of a split are the same in all runs."""
    if overlap.is_same:
        return f"{overlap.split} rows: the same {overlap.num_common:,}"
    counts = ", ".join(f"{count:,}" for count in overlap.counts)
    verdict = "do not compare what was measured on them"
    return f"{overlap.split} rows: NOT the same ({counts}; {overlap.num_common:,} in common): {verdict}"


def say_pair(pair: PairedComparison) -> str:
    """One sentence: which run is better, by how much, and how sure that is."""
    later, earlier = isolate(pair.candidate), isolate(pair.baseline)
    opening = {
        "better": f"{later} is better than {earlier}",
        "worse": f"{later} is worse than {earlier}",
        "unclear": f"no difference between {later} and {earlier} is shown",
    }[pair.verdict]
    difference = pair.difference
    reached = (
        f"{say_percent(pair.candidate_share)} right against {say_percent(pair.baseline_share)} of {pair.num_rows:,}"
        if pair.means is None
        else f"{say_metric_name(pair.metric)} {say_metric(pair.metric, pair.candidate_share)} against "
        f"{say_metric(pair.metric, pair.baseline_share)} on {pair.num_rows:,}"
    )
    return (
        f"{opening}: {reached} test rows, {say_points(difference.value)} points (95 % interval "
        f"{say_points(difference.low)} to {say_points(difference.high)}; {say_test(pair)})"
    )


def _result_rows(runs: Sequence[RunOverview]) -> list[list[str]]:
    """What each run reached; a line that no run has something for is left out."""
    names = list(dict.fromkeys(metric.name for run in runs for metric in run.metrics))
    metrics = [{metric.name: say_metric_value(metric) for metric in run.metrics} for run in runs]
    rows = [
        ["state", *(run.state for run in runs)],
        ["where", *(run.where for run in runs)],
        ["best validation loss", *(say_best(run) for run in runs)],
        *([say_metric_name(name), *(values.get(name, "") for values in metrics)] for name in names),
        ["steps", *(f"{run.step:,}" if run.step else "" for run in runs)],
        ["trained weights", *(f"{run.trained_parameters:,}" if run.trained_parameters else "" for run in runs)],
        ["tokens/s", *(say_speed(run) for run in runs)],
        ["share of peak", *("" if run.peak_share is None else say_percent(run.peak_share) for run in runs)],
        ["peak memory", *("" if run.peak_memory_bytes is None else say_size(run.peak_memory_bytes) for run in runs)],
    ]
    return [row for row in rows if any(row[1:])]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, justify: str = "left") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(Text(name), justify="right" if number and justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _say_setting(value: object) -> str:
    return "-" if value is None else make_visible(dump_value(value))
