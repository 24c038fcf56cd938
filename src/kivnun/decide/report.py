"""The page of a comparison: a single HTML file that needs no network and no script, with the verdict first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kivnun.decide import report_parts, wording
from kivnun.decide.plots import draw_arms, draw_curve, draw_gaps, draw_pareto
from kivnun.decide.report_parts import Cell
from kivnun.decide.results import Arm, Flip, Strategies
from kivnun.evaluation import report as evaluation_report
from kivnun.evaluation import wording as evaluation_wording
from kivnun.runs.atomic import write_atomic

TEMPLATE = "report.html.jinja"
PAGE_NAME, FIGURES_NAME = "report.html", "strategies.json"
WIDE, NARROW, HALF = 900, 360, 440


@dataclass(frozen=True)
class Line:
    """One arm in the table.

    Attributes:
        arm: It.
        kind: `chosen`, `diagnostic` or `arm`.
        cells: Its figures, by column.
        settings: What was chosen on the validation rows, in words.
    """

    arm: Arm
    kind: str
    cells: Mapping[str, Cell]
    settings: str


def render_strategies(strategies: Strategies) -> str:
    """The whole page as HTML text; every value from outside is escaped."""
    shared = Path(evaluation_report.__file__).parent
    environment = Environment(
        # The look is that of a run's report; what only this page has is in a style of its own.
        loader=FileSystemLoader([Path(__file__).parent, shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "clip": evaluation_report.clip_text,
        "percent": evaluation_wording.say_percent,
        "points": evaluation_wording.say_points,
        "duration": evaluation_wording.say_duration,
    }
    lines = _lines(strategies)
    return environment.get_template(TEMPLATE).render(
        page=strategies,
        metric=evaluation_wording.say_metric_name(strategies.metric),
        badge=_badge(strategies),
        facts=_facts(strategies),
        lines=lines,
        columns=list(lines[0].cells) if lines else [],
        left_out=[arm for arm in strategies.arms if arm.state != "measured"],
        fresh=[(arm, arm.freshness) for arm in strategies.arms if arm.freshness is not None],
        charts=_charts(strategies),
        load=report_parts.say_load(strategies),
        mark=_mark,
        shown=_shown_arms,
    )


def write_strategies(strategies: Strategies, folder: Path) -> tuple[Path, Path]:
    """Write the page and the figures into the folder of the comparison, and return both files.

    Raises:
        UserError: `disk-full`.
    """
    page, figures = folder / PAGE_NAME, folder / FIGURES_NAME
    write_atomic(page, render_strategies(strategies))
    write_atomic(figures, json.dumps(strategies.to_json(), indent=1, ensure_ascii=False) + "\n")
    return page, figures


def _lines(strategies: Strategies) -> list[Line]:
    """The measured arms by cost, then the diagnostics."""
    cells = report_parts.arm_cells(strategies)
    order = {name: number for number, name in enumerate(strategies.decision.order)}
    measured = sorted(
        (arm for arm in strategies.arms if arm.name in cells), key=lambda arm: order.get(arm.name, len(order))
    )
    return [Line(arm, _kind(arm, strategies), cells[arm.name], _settings(arm)) for arm in measured]


def _kind(arm: Arm, strategies: Strategies) -> str:
    if arm.name == strategies.decision.chosen:
        return "chosen"
    return "arm" if arm.is_selectable else "diagnostic"


def _settings(arm: Arm) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in arm.settings.items())


def _badge(strategies: Strategies) -> tuple[str, str, str]:
    """The verdict's class, sign and word."""
    if not strategies.decision.chosen:
        return "worse", "✗", "No verdict"
    return ("better", "✓", "Decided") if strategies.decision.is_decided else ("unclear", "≈", "Undecided")


def _facts(strategies: Strategies) -> list[tuple[str, str, str]]:
    """Up to four figures of the chosen arm: name, figure, and what stands below."""
    chosen = next((arm for arm in strategies.arms if arm.name == strategies.decision.chosen), None)
    if chosen is None:
        return []
    cells = report_parts.arm_cells(strategies)[chosen.name]
    named = {
        "quality": evaluation_wording.say_metric_name(strategies.metric),
        "gain": "gain on the baseline",
        "per 1,000": "per 1,000 requests",
        "latency": "median latency",
    }
    return [
        (words, cells[name].value, "; ".join(cells[name].notes))
        for name, words in named.items()
        if name in cells and cells[name].value not in ("–", "baseline")
    ]


def _charts(strategies: Strategies) -> dict[str, Markup | None]:
    """Every picture for wide pages and for phones: text inside an SVG shrinks with it."""
    dots = report_parts.arm_dots(strategies)
    label, costs, say_cost = report_parts.cost_axis(strategies)
    priced = [replace(dot, cost=costs[dot.name]) for dot in dots if dot.name in costs]
    charts: dict[str, Markup | None] = {}
    for size, width, half in (("wide", WIDE, HALF), ("narrow", NARROW, NARROW)):
        charts[f"arms_{size}"] = draw_arms(dots, width=width)
        charts[f"pareto_{size}"] = draw_pareto(priced, label, say_cost, width=width)
        charts[f"gaps_{size}"] = draw_gaps(strategies.gaps, width=half)
        charts[f"curve_{size}"] = draw_curve(strategies.curve, width=half)
    return charts


def _mark(score: float) -> tuple[str, str]:
    """The class and the sign of a row's score."""
    if score >= 1:
        return "right", "✓"
    return ("wrong", "✗") if score <= 0 else ("partly", wording.say_score(score))


def _shown_arms(flip: Flip) -> list[tuple[str, str, float]]:
    """The answers to a row, the best first."""
    return sorted(((name, text, flip.scores[name]) for name, text in flip.answers.items()), key=lambda each: -each[2])
