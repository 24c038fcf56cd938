"""The pictures of a comparison as inline SVG: arms with their intervals, quality against cost, gaps, learning curve."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kivnun.decide.results import CurvePoint, Gaps
from kivnun.evaluation.plots import choose_ticks, draw_text
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.wording import say_percent, say_points

ROW_HEIGHT = 34
TOP, BOTTOM, RIGHT = 12.0, 40.0, 18.0
LETTER_WIDTH = 7.0
LOG_FROM = 20.0
"""From this ratio of the dearest to the cheapest on, costs stand on a logarithmic axis."""
GAP_WORDS = (
    ("knowledge", "what it does not know"),
    ("behaviour", "what it does not do when shown"),
    ("retrieval", "what is not found"),
)


@dataclass(frozen=True)
class Dot:
    """An arm in a picture.

    Attributes:
        name: Of the arm.
        score: Its quality.
        is_chosen: Whether it is the verdict's.
        is_diagnostic: Whether it cannot be chosen.
        cost: What it costs; None where that is not known.
    """

    name: str
    score: Estimate
    is_chosen: bool = False
    is_diagnostic: bool = False
    cost: float | None = None

    @property
    def kind(self) -> str:
        """Its class in the page's style."""
        return "chosen" if self.is_chosen else "diagnostic" if self.is_diagnostic else "arm"


@dataclass(frozen=True)
class _Scale:
    """Where values fall along one side of a picture."""

    values: tuple[float, float]
    places: tuple[float, float]
    is_log: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high = map(self._bend, self.values)
        start, end = self.places
        return start + (self._bend(value) - low) / ((high - low) or 1) * (end - start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def draw_arms(dots: Sequence[Dot], *, width: int) -> Markup | None:
    """Each arm's quality with its interval, one below the other."""
    if not dots:
        return None
    left = min(LETTER_WIDTH * max(len(dot.name) for dot in dots) + 14, width * 0.45)
    height = TOP + ROW_HEIGHT * len(dots) + BOTTOM
    ticks = _share_ticks([dot.score for dot in dots])
    scale = _Scale((ticks[0], ticks[-1]), (left, width - RIGHT - 46))
    parts = [_open(width, height, "; ".join(f"{dot.name}: {_say(dot.score)}" for dot in dots))]
    parts += [_vertical(scale.at(tick), TOP, height - BOTTOM, f"{100 * tick:.4g} %") for tick in ticks]
    for number, dot in enumerate(dots):
        y = TOP + ROW_HEIGHT * (number + 0.5)
        parts += [
            draw_text(left - 10, y + 4, "end", dot.name, f"name {dot.kind}"),
            _line(f"reach {dot.kind}", scale.at(dot.score.low), y, scale.at(dot.score.high), y),
            _circle(dot, scale.at(dot.score.value), y),
            draw_text(width - 4, y + 4, "end", say_percent(dot.score.value), f"name {dot.kind}"),
        ]
    return Markup("\n").join([*parts, Markup("</svg>")])


def draw_pareto(dots: Sequence[Dot], label: str, say_cost: Callable[[float], str], *, width: int) -> Markup | None:
    """Quality against cost; the arms that no other one beats in both are joined. None for fewer than two.

    Args:
        dots: The arms that can be chosen.
        label: What the cost is.
        say_cost: A cost in words.
        width: Of the picture.
    """
    known = [(dot, dot.cost) for dot in dots if dot.cost is not None and dot.cost > 0]
    if len(known) < 2:
        return None
    height = 300
    costs = [cost for _, cost in known]
    is_log = max(costs) / min(costs) > LOG_FROM
    ticks_x = _cost_ticks(costs, is_log=is_log)
    ticks_y = _share_ticks([dot.score for dot, _ in known])
    # A name of the dearest tick reaches beyond it.
    across = _Scale((ticks_x[0], ticks_x[-1]), (52.0, width - 2 * RIGHT), is_log)
    up = _Scale((ticks_y[0], ticks_y[-1]), (height - BOTTOM, TOP + 8))
    parts = [_open(width, height, "; ".join(f"{dot.name}: {_say(dot.score)}, {say_cost(cost)}" for dot, cost in known))]
    parts += [_horizontal(up.at(tick), 52.0, width - RIGHT, f"{100 * tick:.4g} %") for tick in ticks_y]
    parts += [_tick_below(across.at(tick), height - BOTTOM, say_cost(tick)) for tick in ticks_x]
    front = sorted((cost, dot.score.value) for dot, cost in known if _leads(dot, cost, known))
    places = " ".join(f"{across.at(cost):.1f},{up.at(score):.1f}" for cost, score in front)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(places))
    taken: list[tuple[float, float]] = []
    for dot, cost in sorted(known, key=lambda pair: pair[1]):
        x, y = across.at(cost), up.at(dot.score.value)
        parts += [
            _line(f"reach thin {dot.kind}", x, up.at(dot.score.low), x, up.at(dot.score.high)),
            _circle(dot, x, y),
        ]
        parts.append(_name_beside(dot, x, y, width, taken))
    parts.append(draw_text((52.0 + width) / 2, height - 4, "middle", label + (" (logarithmic)" if is_log else "")))
    return Markup("\n").join([*parts, Markup("</svg>")])


def draw_gaps(gaps: Gaps, *, width: int) -> Markup | None:
    """How much is lost for want of knowledge, of behaviour and of retrieval; None where nothing was measured."""
    known = [(name, words, share) for name, words in GAP_WORDS if (share := getattr(gaps, name)) is not None]
    if not known:
        return None
    left, row = (96.0, 44)
    height = TOP + row * len(known) + BOTTOM - 12
    ticks = choose_ticks(min(0.0, *(share for *_, share in known)), max(0.1, *(share for *_, share in known)))
    scale = _Scale((ticks[0], ticks[-1]), (left, width - RIGHT - 40))
    parts = [_open(width, height, "; ".join(f"{name} gap: {say_points(share)} points" for name, _, share in known))]
    parts += [_vertical(scale.at(tick), TOP, height - BOTTOM + 12, f"{100 * tick:.4g}") for tick in ticks]
    for number, (name, words, share) in enumerate(known):
        y = TOP + row * number + 6
        start, end = sorted((scale.at(0.0), scale.at(share)))
        bar = Markup('<rect class="gap {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="16" rx="3"/>')
        parts += [
            draw_text(left - 10, y + 13, "end", name, "name arm"),
            bar.format(name, start, y, max(end - start, 1.5)),
            draw_text(end + 6, y + 13, "start", say_points(share), "name arm"),
            draw_text(left + 2, y + 31, "start", words),
        ]
    return Markup("\n").join([*parts, Markup("</svg>")])


def draw_curve(points: Sequence[CurvePoint], *, width: int) -> Markup | None:
    """Quality against the number of training rows; None for fewer than two points."""
    if len(points) < 2:
        return None
    height = 260
    ticks_y = _share_ticks([point.score for point in points])
    ticks_x = choose_ticks(0, max(point.num_rows for point in points), whole=True)
    across = _Scale((0, max(point.num_rows for point in points)), (52.0, width - RIGHT - 10))
    up = _Scale((ticks_y[0], ticks_y[-1]), (height - BOTTOM, TOP + 8))
    said = "; ".join(f"{point.num_rows} rows: {_say(point.score)} ({point.split})" for point in points)
    parts = [_open(width, height, said)]
    parts += [_horizontal(up.at(tick), 52.0, width - RIGHT, f"{100 * tick:.4g} %") for tick in ticks_y]
    parts += [_tick_below(across.at(tick), height - BOTTOM, f"{tick:,.0f}") for tick in ticks_x]
    for split in dict.fromkeys(point.split for point in points):
        joined = sorted((point.num_rows, point.score.value) for point in points if point.split == split)
        places = " ".join(f"{across.at(rows):.1f},{up.at(score):.1f}" for rows, score in joined)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(places))
    for point in points:
        x, dot = across.at(point.num_rows), Dot(point.split, point.score, is_diagnostic=point.split == "test")
        parts += [_line(f"reach thin {dot.kind}", x, up.at(point.score.low), x, up.at(point.score.high))]
        parts += [_circle(dot, x, up.at(point.score.value))]
    parts.append(draw_text((52.0 + width) / 2, height - 4, "middle", "training rows"))
    return Markup("\n").join([*parts, Markup("</svg>")])


def _leads(dot: Dot, cost: float, known: Sequence[tuple[Dot, float]]) -> bool:
    """Whether no arm is at least as good and cheaper, or better and as cheap."""
    score = dot.score.value
    return not any(
        (other.score.value >= score and price < cost) or (other.score.value > score and price <= cost)
        for other, price in known
    )


def _name_beside(dot: Dot, x: float, y: float, width: float, taken: list[tuple[float, float]]) -> Markup:
    """The name of a dot, moved until it stands on no other name."""
    reach = LETTER_WIDTH * len(dot.name)
    anchor, start = ("end", x - 10 - reach) if x + reach > width - RIGHT else ("start", x + 10)
    for shift in (-6.0, 16.0, -22.0, 32.0, -38.0, 48.0):
        if all(abs(y + shift - row) > 13 or start > end + 4 for row, end in taken):
            break
    taken.append((y + shift, start + reach))
    return draw_text(x - 10 if anchor == "end" else x + 10, y + shift, anchor, dot.name, f"name {dot.kind}")


def _share_ticks(scores: Sequence[Estimate]) -> list[float]:
    """Round shares that enclose every interval, within 0 and 1."""
    low, high = min(score.low for score in scores), max(score.high for score in scores)
    return [tick for tick in choose_ticks(low, max(high, low + 0.05)) if -1e-9 <= tick <= 1 + 1e-9] or [0.0, 1.0]


def _cost_ticks(costs: Sequence[float], *, is_log: bool) -> list[float]:
    if not is_log:
        return choose_ticks(0.0, max(costs))
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _say(score: Estimate) -> str:
    return f"{say_percent(score.value)} ({say_percent(score.low)} to {say_percent(score.high)})"


def _open(width: float, height: float, summary: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(
        width, height, summary
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _circle(dot: Dot, x: float, y: float) -> Markup:
    words = f"{dot.name}: {_say(dot.score)}"
    return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="5.5"><title>{}</title></circle>').format(
        dot.kind, x, y, words
    )


def _vertical(x: float, top: float, bottom: float, words: str) -> Markup:
    return _line("grid", x, top, x, bottom) + draw_text(x, bottom + 17, "middle", words)


def _horizontal(y: float, left: float, right: float, words: str) -> Markup:
    return _line("grid", left, y, right, y) + draw_text(left - 8, y + 4, "end", words)


def _tick_below(x: float, bottom: float, words: str) -> Markup:
    return _line("axis", x, bottom, x, bottom + 4) + draw_text(x, bottom + 18, "middle", words)
