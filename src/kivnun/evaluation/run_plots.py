"""The curves of several runs in one picture: SVG, a page that needs nothing else, or PNG."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kivnun.errors import UserError
from kivnun.evaluation.plots import Frame, Points, choose_ticks, draw_axes, draw_line, draw_text, thin_out, thin_steps

WIDTH, PANEL_HEIGHT, LEGEND_LINE = 760, 280, 22
FEW_POINTS = 60
# Okabe and Ito's colours, which those who see fewer colours tell apart; light pages need a darker yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f", "#6a3d9a")
DASHES = ("none", "7 3", "2 3")

_STYLE = Markup("""\
svg.runs { color: #1f2328; background: #ffffff; font: 12px system-ui, sans-serif; }
svg.runs text { fill: currentColor; }
svg.runs .name { font-weight: 600; }
svg.runs .grid { stroke: currentColor; stroke-opacity: 0.12; }
svg.runs .axis { stroke: currentColor; stroke-opacity: 0.5; }
svg.runs polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
@media (prefers-color-scheme: dark) { svg.runs { color: #e6edf3; background: #0d1117; } }
""")
_PAGE = Markup("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; max-width: 800px; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }}
svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .8rem .2rem 0; text-align: start; }}
</style></head><body>
<h1>{heading}</h1>
{picture}
<h2>Last values</h2>
<table><thead><tr><th>run</th><th>what</th><th>step</th><th>value</th></tr></thead>
<tbody>
{rows}
</tbody></table>
</body></html>
""")


@dataclass(frozen=True)
class RunCurves:
    """What a run measured.

    Attributes:
        name: The run's name.
        curves: Points by what they measure, such as `validation/loss`.
    """

    name: str
    curves: Mapping[str, Points]


def draw_runs(runs: Sequence[RunCurves]) -> Markup:
    """An SVG file with a panel for everything that was measured and a line for every run.

    Raises:
        UserError: `run-missing` where no run has a point.
    """
    names = curve_names(runs)
    legend_height = 14 + LEGEND_LINE * len(runs)
    height = legend_height + PANEL_HEIGHT * len(names)
    parts = [
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" class="runs" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        ).format(WIDTH, height, describe_runs(runs)),
        Markup("<style>{}{}</style>").format(_STYLE, _run_styles(len(runs))),
        *_legend(runs),
    ]
    for number, name in enumerate(names):
        parts.append(Markup('<g transform="translate(0 {})">').format(legend_height + number * PANEL_HEIGHT))
        parts += _panel(runs, name)
        parts.append(Markup("</g>"))
    return Markup("\n").join([*parts, Markup("</svg>\n")])


def render_page(runs: Sequence[RunCurves]) -> str:
    """The same picture as a page, with the last values in a table for those who do not see it.

    Raises:
        UserError: `run-missing` where no run has a point.
    """
    picture = draw_runs(runs)
    row = Markup(
        '<tr><td><bdi dir="auto">{}</bdi></td><td>{}</td><td>{:,}</td><td>{:.4f}</td></tr>',
    )
    rows = [
        row.format(run.name, name, *run.curves[name][-1])
        for name in curve_names(runs)
        for run in runs
        if run.curves.get(name)
    ]
    heading = Markup(", ").join(Markup('<bdi dir="auto">{}</bdi>').format(run.name) for run in runs)
    title = ", ".join(run.name for run in runs)
    return str(_PAGE.format(title=title, heading=heading, picture=picture, rows=Markup("\n").join(rows)))


def draw_png(runs: Sequence[RunCurves]) -> bytes:
    """The same picture as PNG, drawn with matplotlib.

    Raises:
        UserError: `dependency-missing` without matplotlib; `run-missing` where no run has a point.
    """
    names = curve_names(runs)
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        hint = "name a file that ends in .svg or .html, or `pip install matplotlib`"
        raise UserError("dependency-missing", "a PNG is drawn with matplotlib, which is missing", hint=hint) from error
    figure = Figure(figsize=(8, 0.6 + 3 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
        for number, run in enumerate(runs):
            steps, values = zip(*thin_out(run.curves.get(name, ())) or [((), ())], strict=True)
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": _matplotlib_dash(number)}
            axes.plot(steps, values, label=run.name, marker="." if len(steps) <= FEW_POINTS else None, **style)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    stream = io.BytesIO()
    figure.savefig(stream, dpi=144, format="png")
    return stream.getvalue()


def curve_names(runs: Sequence[RunCurves]) -> list[str]:
    """What any of the runs measured, losses first.

    Raises:
        UserError: `run-missing` where no run has a point.
    """
    found = {name for run in runs for name, points in run.curves.items() if points}
    if not found:
        names = ", ".join(run.name for run in runs)
        raise UserError(
            "run-missing", f"no training step is in the events of {names}", hint="wait until the training has begun"
        )
    first = [name for name in ("train/loss", "validation/loss") if name in found]
    return [*first, *sorted(found - set(first))]


def describe_runs(runs: Sequence[RunCurves]) -> str:
    """What the curves show, in words, for those who do not see them."""
    parts = [
        f"{run.name}: {name} from {points[0][1]:.3f} at step {points[0][0]} to {points[-1][1]:.3f} at {points[-1][0]}"
        for run in runs
        for name, points in run.curves.items()
        if points
    ]
    return f"Curves of {len(runs)} run(s): {'; '.join(parts)}."


def _panel(runs: Sequence[RunCurves], name: str) -> list[Markup]:
    """One picture with its axes; every run that measured it has a line, and dots where there are few."""
    everything = [points for run in runs if (points := run.curves.get(name))]
    lines = [thin_out(points) for points in everything]
    values = [value for line in lines for _, value in line]
    last = max(1, *(points[-1][0] for points in everything))
    ticks_x, ticks_y = choose_ticks(0, last, whole=True), choose_ticks(min(values), max(values))
    frame = Frame(WIDTH, PANEL_HEIGHT - 10, (0, last), (ticks_y[0], ticks_y[-1]))
    parts = draw_axes(frame, ticks_x, ticks_y, label=name)
    for number, run in enumerate(runs):
        points = run.curves.get(name, ())
        if points:
            parts.append(draw_line(frame, thin_out(points), f"run-{number}"))
        if len(points) <= FEW_POINTS:
            dot = Markup('<circle class="dot-{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
            parts += [
                dot.format(number, frame.x(step), frame.y(value), f"{run.name}, step {step}: {value:.4f}")
                for step, value in thin_steps(points)
            ]
    return parts


def _legend(runs: Sequence[RunCurves]) -> list[Markup]:
    parts: list[Markup] = []
    for number, run in enumerate(runs):
        y = 16 + LEGEND_LINE * number
        parts.append(Markup('<polyline class="run-{}" points="8,{} 44,{}"/>').format(number, y, y))
        parts.append(draw_text(54, y + 4, "start", run.name, "name"))
    return parts


def _run_styles(num_runs: int) -> Markup:
    """A colour for every run, and another dash once the colours are used up."""
    style = Markup(
        "svg.runs .run-{number} {{ stroke: {colour}; stroke-dasharray: {dash}; }} "
        "svg.runs .dot-{number} {{ fill: {colour}; }}\n"
    )
    styles = [
        style.format(
            number=number,
            colour=COLOURS[number % len(COLOURS)],
            dash=DASHES[number // len(COLOURS) % len(DASHES)],
        )
        for number in range(num_runs)
    ]
    return Markup().join(styles)


def _matplotlib_dash(number: int) -> str:
    return ("-", "--", ":")[number // len(COLOURS) % len(DASHES)]
