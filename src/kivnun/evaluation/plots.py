"""Loss curves as inline SVG, drawn by hand so that they follow the page's colours in light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Points = Sequence[tuple[int, float]]

MAX_POINTS = 240
NUM_TICKS = 5
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46.0, 14.0, 22.0, 40.0


@dataclass(frozen=True)
class Frame:
    """Where data coordinates fall in the picture."""

    width: float
    height: float
    steps: tuple[float, float]
    losses: tuple[float, float]

    def x(self, step: float) -> float:
        """The horizontal place of a step."""
        low, high = self.steps
        return MARGIN_LEFT + (step - low) / (high - low) * (self.width - MARGIN_LEFT - MARGIN_RIGHT)

    def y(self, loss: float) -> float:
        """The vertical place of a loss."""
        low, high = self.losses
        return MARGIN_TOP + (high - loss) / (high - low) * (self.height - MARGIN_TOP - MARGIN_BOTTOM)


def draw_losses(train: Points, validation: Points, best_step: int | None, *, width: int, height: int) -> Markup | None:
    """The training and validation loss against the step, or None when no finite loss was recorded.

    Draw it once for wide pages and once for phones: text inside an SVG shrinks with the picture.
    """
    train, validation = _finite(train), _finite(validation)
    if not train and not validation:
        return None
    curve = thin_out(train)
    losses = [loss for _, loss in (*curve, *validation)]
    ticks_x = choose_ticks(0, max(step for step, _ in (*train, *validation)), whole=True)
    ticks_y = choose_ticks(min(losses), max(losses))
    frame = Frame(width, height, (0, max(1, *(step for step, _ in (*train, *validation)))), (ticks_y[0], ticks_y[-1]))
    summary = describe_losses(train, validation, best_step)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, summary),
        *draw_axes(frame, ticks_x, ticks_y, label="loss"),
        draw_line(frame, curve, "train"),
        draw_line(frame, validation, "validation"),
        *_dots(frame, validation),
        *_best(frame, dict(validation), best_step),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def describe_losses(train: Points, validation: Points, best_step: int | None) -> str:
    """What the curves show, in words, for those who do not see them."""
    sentences = [
        f"{name} loss from {points[0][1]:.3f} at step {points[0][0]} to {points[-1][1]:.3f} at step {points[-1][0]}"
        for name, points in (("training", _finite(train)), ("validation", _finite(validation)))
        if points
    ]
    if best_step is not None:
        sentences.append(f"best step {best_step}")
    return f"Loss curves: {'; '.join(sentences)}."


def thin_out(points: Points) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(loss for _, loss in group) / len(group)) for group in groups
    ]


def choose_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) that enclose the range; whole steps stay inside it."""
    span = max(high - low, 1 if whole else 1e-6)
    power = 10 ** math.floor(math.log10(span / NUM_TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= NUM_TICKS)
    if whole:
        step = max(1, round(step))
        return [float(tick) for tick in range(0, int(high) + 1, int(step))]
    first, last = math.floor(low / step), math.ceil(high / step)
    return [tick * step for tick in range(first, max(last, first + 1) + 1)]


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def draw_axes(
    frame: Frame, ticks_x: Sequence[float], ticks_y: Sequence[float], *, label: str, label_x: str = "step"
) -> list[Markup]:
    """Grid lines, ticks with their numbers, and the names of both axes."""
    right, bottom = frame.width - MARGIN_RIGHT, frame.height - MARGIN_BOTTOM
    parts: list[Markup] = []
    for tick in ticks_y:
        y = frame.y(tick)
        parts += [
            Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                MARGIN_LEFT, right, y, y
            ),
            draw_text(MARGIN_LEFT - 8, y + 4, "end", f"{tick:.4g}"),
        ]
    for tick in ticks_x:
        x = frame.x(tick)
        parts += [
            Markup('<line class="axis" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                x, x, bottom, bottom + 4
            ),
            draw_text(x, bottom + 18, "middle", f"{tick:,.0f}"),
        ]
    baseline = Markup('<line class="axis" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    parts += [
        baseline.format(MARGIN_LEFT, right, bottom, bottom),
        draw_text((MARGIN_LEFT + right) / 2, frame.height - 5, "middle", label_x),
        draw_text(2, 11, "start", label),
    ]
    return parts


def draw_line(frame: Frame, points: Sequence[tuple[float, float]], name: str) -> Markup:
    """A curve of the class `name`."""
    places = " ".join(f"{frame.x(step):.1f},{frame.y(loss):.1f}" for step, loss in points)
    return Markup('<polyline class="{}" points="{}"/>').format(name, places)


def _dots(frame: Frame, points: Points) -> list[Markup]:
    dot = Markup('<circle class="validation-dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
    return [dot.format(frame.x(step), frame.y(loss), f"step {step}: {loss:.4f}") for step, loss in thin_steps(points)]


def thin_steps(points: Points) -> list[tuple[int, float]]:
    """Every n-th validation, so that dots stay apart."""
    return list(points)[:: math.ceil(len(points) / 60) or 1]


def _best(frame: Frame, validation: dict[int, float], best_step: int | None) -> list[Markup]:
    if best_step is None or best_step > frame.steps[1]:
        return []
    x = frame.x(best_step)
    loss = validation.get(best_step)
    label = f"best: step {best_step:,}" + ("" if loss is None else f", {loss:.3f}")
    anchor = "end" if x > frame.width / 2 else "start"
    parts = [
        Markup('<line class="best" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            x, x, MARGIN_TOP - 6, frame.height - MARGIN_BOTTOM
        ),
        draw_text(x + (-6 if anchor == "end" else 6), MARGIN_TOP - 6, anchor, label, "best-label"),
    ]
    if loss is not None:
        y = frame.y(loss)
        parts.append(
            Markup('<path class="best-mark" d="M{:.1f} {:.1f}l6 6l-6 6l-6 -6z"/>').format(x, y - 6),
        )
    return parts


def draw_text(x: float, y: float, anchor: str, words: str, kind: str = "tick") -> Markup:
    """Words at a place."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(words)
    )
