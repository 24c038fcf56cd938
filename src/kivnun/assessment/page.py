"""An evaluation as a page for people: one HTML file that needs no network and no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import kivnun.evaluation
from kivnun.assessment.folder import AnsweredRow, Evaluated
from kivnun.evaluation import wording
from kivnun.evaluation.results import Estimate

TEMPLATE = "evaluation.html.jinja"
LONG_TEXT = 1200
MAX_WORST = 40
UNBOUNDED = ("perplexity", "bits_per_byte")


@dataclass(frozen=True)
class MetricLine:
    """A metric ready to print."""

    name: str
    value: str
    interval: str
    method: str
    bar: tuple[float, float, float] | None


@dataclass(frozen=True)
class Fact:
    """A fact about an evaluation, and its value."""

    name: str
    value: str


def open_pages() -> Environment:
    """The templates of this floor, with the page style that all reports share; everything from outside is escaped."""
    folders = [Path(__file__).parent, Path(kivnun.evaluation.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "clip": clip,
        "metric_name": wording.say_metric_name,
        "say": lambda value, metric: wording.say_metric(metric, value),
        "points": wording.say_points,
        "p_value": wording.say_p_value,
    }
    return environment


def render_evaluation(evaluated: Evaluated) -> str:
    """The page of one evaluation: scores, parts of the rows, the worst answers.

    Args:
        evaluated: The evaluation.
    """
    worst = worst_rows(evaluated)
    return (
        open_pages()
        .get_template(TEMPLATE)
        .render(
            evaluated=evaluated,
            metrics=[metric_line(name, estimate) for name, estimate in evaluated.metrics.items()],
            slices=[(part, metric_line(evaluated.main, part.score)) for part in evaluated.slices],
            worst=worst,
            num_below=sum(row.scores[evaluated.main] < 1 for row in evaluated.rows),
            facts=list_facts(evaluated),
        )
    )


def metric_line(name: str, estimate: Estimate) -> MetricLine:
    """A metric in words, with a bar where its scale is 0 to 1.

    Args:
        name: The metric.
        estimate: Its value and interval.
    """
    has_scale = name not in UNBOUNDED and estimate.low >= 0 and estimate.high <= 1
    bar = (estimate.low, estimate.value, estimate.high) if has_scale else None
    value, interval = wording.say_metric(name, estimate.value), wording.say_interval(name, estimate)
    return MetricLine(name, value, interval, estimate.method, bar)


def worst_rows(evaluated: Evaluated) -> list[AnsweredRow]:
    """The rows with the lowest main score, in the order of the data among equals.

    Args:
        evaluated: The evaluation.
    """
    below = [row for row in evaluated.rows if row.scores[evaluated.main] < 1]
    return sorted(below, key=lambda row: row.scores[evaluated.main])[:MAX_WORST]


def list_facts(evaluated: Evaluated) -> Sequence[Fact]:
    """What a reader must know of how it was measured.

    Args:
        evaluated: The evaluation.
    """
    about, usage = evaluated.about, evaluated.usage
    asked = "continues text" if about["kind"] == "text" else "answers messages"
    facts = [
        Fact("model", f"{about['model']} ({asked})"),
        Fact("where", str(about["place"])),
        Fact("rows", f"{len(evaluated.rows):,} of {about['source']}"),
        Fact("task", str(about["settings"]["task"])),
        Fact("longest answer", f"{about['settings']['max_new_tokens']:,} tokens"),
        Fact("tokens", f"{usage.prompt_tokens:,} read, {usage.completion_tokens:,} written"),
    ]
    if about["instruction"]:
        facts.append(Fact("instruction", str(about["instruction"])))
    if usage.cached_tokens or usage.written_tokens:
        facts.append(
            Fact("kept ready", f"{usage.cached_tokens:,} of the tokens read, {usage.written_tokens:,} newly kept")
        )
    if usage.dollars is not None:
        facts.append(Fact("cost", f"${usage.dollars:,.4f} ({usage.price_note})"))
    elif usage.price_note:
        facts.append(Fact("cost", f"unknown: {usage.price_note}"))
    return facts


def clip(text: str) -> str:
    """Long texts up to a limit, saying how much is left out."""
    hidden = len(text) - LONG_TEXT
    return text if hidden <= 0 else f"{text[:LONG_TEXT]}… ({hidden:,} more characters)"
