"""Dots as inline SVG: the value of each trial, and against each field, drawn by hand so that no script is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kivnun.evaluation.plots import choose_ticks

WIDTH, HEIGHT = 520.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 26.0, 40.0


@dataclass(frozen=True)
class Dot:
    """One trial in a picture.

    Attributes:
        x: Its place along.
        y: Its place up.
        state: How it ended, which decides its colour.
        words: What is said of it under the pointer.
    """

    x: float
    y: float
    state: str
    words: str


@dataclass(frozen=True)
class Axis:
    """The horizontal axis.

    Attributes:
        name: What lies along it.
        ticks: Places that are named.
        labels: Their names.
        log: Whether places are drawn by their logarithm.
    """

    name: str
    ticks: Sequence[float]
    labels: Sequence[str]
    log: bool = False


def number_axis(name: str, values: Sequence[float], *, log: bool = False, whole: bool = False) -> Axis:
    """An axis for numbers: powers of ten where the logarithm is drawn, round numbers elsewhere."""
    low, high = min(values), max(values)
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [10.0**power for power in powers]
        return Axis(name, ticks, [f"{tick:g}" for tick in ticks], log=True)
    ticks = [tick for tick in choose_ticks(low, high, whole=whole) if not whole or tick > 0]
    return Axis(name, ticks or [low], [f"{tick:.4g}" for tick in (ticks or [low])])


def category_axis(name: str, labels: Sequence[str]) -> Axis:
    """An axis for choices, one place each."""
    return Axis(name, list(range(len(labels))), labels)


def draw_dots(
    dots: Sequence[Dot], axis: Axis, *, metric: str, best_so_far: Sequence[tuple[float, float]] = ()
) -> Markup:
    """A picture of trials.

    Args:
        dots: The trials.
        axis: What lies along.
        metric: What lies up.
        best_so_far: Points of a line of steps.
    """
    ticks = choose_ticks(min(dot.y for dot in dots), max(dot.y for dot in dots))
    place = _Place(axis, [dot.x for dot in dots], (ticks[0], ticks[-1]))
    label = f"{metric} against {axis.name}: {'; '.join(dot.words for dot in dots)}"
    parts = [Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)]
    for tick in ticks:
        y = place.y(tick)
        parts.append(Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(_text(LEFT - 6, y + 4, "end", f"{tick:.4g}"))
    for tick, name in zip(axis.ticks, axis.labels, strict=True):
        parts.append(_text(place.x(tick), HEIGHT - BOTTOM + 18, "middle", name))
    parts += [_text(LEFT, 14, "start", metric), _text((LEFT + WIDTH) / 2, HEIGHT - 4, "middle", axis.name)]
    if best_so_far:
        first, *rest = [(place.x(x), place.y(y)) for x, y in best_so_far]
        steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
        parts.append(Markup('<path class="best-line" d="M{:.1f} {:.1f}{}"/>').format(*first, steps))
    mark = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>')
    parts += [mark.format(dot.state, place.x(dot.x), place.y(dot.y), dot.words) for dot in dots]
    return Markup("\n").join([*parts, Markup("</svg>")])


class _Place:
    """Where values fall in the picture."""

    def __init__(self, axis: Axis, xs: Sequence[float], y_range: tuple[float, float]) -> None:
        self._log = axis.log
        along = [self._along(x) for x in (*axis.ticks, *xs)]
        self._x_range = (min(along), max(along))
        self._y_range = y_range

    def _along(self, x: float) -> float:
        return math.log10(x) if self._log else x

    def x(self, value: float) -> float:
        low, high = self._x_range
        share = (self._along(value) - low) / (high - low) if high > low else 0.5
        return LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, anchor: str, words: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)
