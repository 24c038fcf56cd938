"""The report of `kivnun check` as one HTML file that needs no network and no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kivnun.data.checks.report import CheckReport, FoundCode
from kivnun.data.findings import SEVERITIES, Severity
from kivnun.data.visible import make_visible

TEMPLATE = "check.html.jinja"
LONG_TEXT = 1_200
MAX_LABELS = 25
CHART_WIDTH, CHART_HEIGHT, AXIS = 720, 170, 22

Bars = Sequence[tuple[int, int, int]]

_VERDICTS: dict[Severity, str] = {
    "error": "The data cannot be used like this.",
    "warning": "The data can be used; look at the warnings first.",
    "note": "Nothing is wrong.",
}


@dataclass(frozen=True)
class Share:
    """One bar of a table of bars."""

    name: str
    count: int
    part: float
    width: float


def render_page(report: CheckReport) -> str:
    """The whole page as HTML text; every value from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"show": show_text, "size": say_size, "number": "{:,}".format}
    wrong: list[Severity] = [severity for severity in SEVERITIES if report.num_findings(severity)]
    worst = wrong[0] if wrong else "note"
    return environment.get_template(TEMPLATE).render(
        report=report,
        verdict=_VERDICTS[worst],
        worst=worst,
        counts=[(severity, report.num_findings(severity)) for severity in SEVERITIES],
        severities=[(severity, group_found(report, severity)) for severity in SEVERITIES],
        splits=[_show_split(name, figures) for name, figures in report.statistics.items()],
        speed=round(report.num_rows / max(report.seconds, 1e-9)),
    )


def show_text(text: str) -> str:
    """A text with visible control characters, up to a limit, saying how much is left out."""
    hidden = len(text) - LONG_TEXT
    shown = make_visible(text[:LONG_TEXT])
    return shown if hidden <= 0 else f"{shown}… ({hidden:,} more characters)"


def say_size(size_bytes: int) -> str:
    """A size in the unit that reads best."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1_000:
            break
        size, unit = size / 1_000, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def group_found(report: CheckReport, severity: Severity) -> list[tuple[str, list[FoundCode]]]:
    """What was found of one severity, under its headings."""
    found = [each for each in report.found if each.severity == severity]
    return [(group, list(part)) for group, part in groupby(found, key=lambda each: each.group)]


def draw_lengths(bars: Bars, *, what: str) -> Markup | None:
    """How many rows have which length, as an inline picture that follows the page's colours; None without rows."""
    if not bars:
        return None
    most = max(count for _, _, count in bars)
    step = CHART_WIDTH / len(bars)
    parts = [
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            index * step + 1,
            CHART_HEIGHT - AXIS - height,
            step - 2,
            height,
            f"{low:,} to {high - 1:,} characters: {count:,} rows",
        )
        for index, (low, high, count) in enumerate(bars)
        for height in [(CHART_HEIGHT - AXIS - 4) * count / most]
    ]
    ticks = [(0.0, "start", bars[0][0]), (CHART_WIDTH / 2, "middle", bars[len(bars) // 2][0])]
    ticks.append((CHART_WIDTH, "end", bars[-1][1] - 1))
    axis = [
        Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{:,}</text>').format(x, CHART_HEIGHT - 5, anchor, value)
        for x, anchor, value in ticks
    ]
    head = Markup('<svg class="lengths" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        CHART_WIDTH, CHART_HEIGHT, f"{what}: {bars[0][0]:,} to {bars[-1][1] - 1:,} characters"
    )
    return Markup("\n").join([head, *parts, *axis, Markup("</svg>")])


def make_shares(counts: Mapping[str, int], limit: int) -> tuple[list[Share], int]:
    """The largest counts as bars, and how many names are left out."""
    total = max(1, sum(counts.values()))
    most = max(counts.values(), default=1)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shares = [Share(name, count, count / total, count / most) for name, count in ordered[:limit]]
    return shares, max(0, len(ordered) - limit)


def _show_split(name: str, figures: Mapping[str, object]) -> dict[str, object]:
    lengths = cast("Mapping[str, Mapping[str, int]]", figures)
    bars = cast("Mapping[str, Bars]", figures.get("bars", {}))
    labels, more_labels = make_shares(cast("Mapping[str, int]", figures.get("labels", {})), MAX_LABELS)
    return {
        "name": name,
        "rows": figures["rows"],
        "turns": cast("Mapping[str, int]", figures["turns"]),
        "lengths": [(what, lengths[key]) for what, key in (("row", "row_characters"), ("answer", "answer_characters"))],
        "charts": [(what, draw_lengths(each, what=what)) for what, each in bars.items() if each],
        "scripts": make_shares(cast("Mapping[str, int]", figures["scripts"]), MAX_LABELS)[0],
        "labels": labels,
        "more_labels": more_labels,
        "tokens": cast("Mapping[str, object]", figures.get("tokens", {})),
    }
