"""Runs as tables: as many columns as the terminal has room for, and a word on those that are left out."""

import sys
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kivnun.cli.output import tell
from kivnun.cli.progress import say_seconds
from kivnun.data.visible import isolate
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.wording import (
    say_interval,
    say_metric,
    say_metric_name,
)
from kivnun.runs.overview import MetricValue, RunOverview, seconds_since

PIPE_WIDTH = 10_000
COLUMN_GAP = 3
SECONDS_PER_DAY = 86_400
STATE_STYLES = {
    "running": "cyan",
    "finished": "green",
    "interrupted": "yellow",
    "failed": "red",
    "killed": "red",
    "unreadable": "red",
}


def say_metric_value(metric: MetricValue, *, is_named: bool = False) -> str:
    """A metric with its interval."""
    estimate = Estimate(metric.value, metric.low, metric.high, "")
    words = f"{say_metric(metric.name, metric.value)} ({say_interval(metric.name, estimate)})"
    return f"{say_metric_name(metric.name)} {words}" if is_named else words


def say_best(run: RunOverview) -> str:
    """The lowest validation loss and its step."""
    return "" if run.best_validation_loss is None else f"{run.best_validation_loss:.4f} at {run.best_step:,}"


def say_speed(run: RunOverview) -> str:
    """Tokens a second."""
    return "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}"


def _say_age(run: RunOverview) -> str:
    seconds = seconds_since(run.last_at)
    if seconds is None:
        return ""
    days = int(seconds // SECONDS_PER_DAY)
    return f"{days}d" if days else say_seconds(max(seconds, 0))


Cell = Callable[[RunOverview], str]

# From the last one back, columns are left out where a terminal is too narrow.
COLUMNS: Mapping[str, Cell] = {
    "run": lambda run: isolate(run.name),
    "state": lambda run: run.state,
    "where": lambda run: run.where,
    "metric": lambda run: "" if run.metric is None else say_metric_value(run.metric, is_named=True),
    "best validation loss": say_best,
    "age": _say_age,
    "method": lambda run: run.method or "",
    "steps": lambda run: f"{run.step:,}" if run.step else "",
    "tokens/s": say_speed,
    "objective": lambda run: run.objective or "",
}
RIGHT = {"best validation loss", "age", "steps", "tokens/s"}


def open_console() -> Console:
    """Standard output; a pipe has no edge to wrap at."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=PIPE_WIDTH)


def print_overviews(runs: Sequence[RunOverview]) -> None:
    """Print one line for every run."""
    console = open_console()
    columns = {name: [cell(run) for run in runs] for name, cell in COLUMNS.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    left_out: list[str] = []
    while sum(_width(name, cells) for name, cells in columns.items()) > console.width and len(columns) > 2:
        left_out.append(list(columns)[-1])
        del columns[left_out[-1]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in columns:
        table.add_column(name, justify="right" if name in RIGHT else "left", overflow="fold")
    for number, run in enumerate(runs):
        cells = [Text(cells[number]) for cells in columns.values()]
        cells[list(columns).index("state")].stylize(STATE_STYLES.get(run.state, ""))
        table.add_row(*cells)
    console.print(table)
    if left_out:
        tell(f"no room for: {', '.join(reversed(left_out))}; --json has everything")


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(cell_len, [name, *cells])) + COLUMN_GAP
