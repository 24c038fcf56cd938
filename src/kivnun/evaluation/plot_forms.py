"""The forms of a model as inline SVG: how large each is and how well it answers; the best of them are joined."""

from collections.abc import Sequence

from markupsafe import Markup

from kivnun.evaluation.plots import Frame, choose_ticks, draw_axes, draw_line, draw_text
from kivnun.generation.agreement import ParityRow

MIB = 2**20
LEAST_FORMS = 3
"""Fewer are read faster in the table."""


def draw_forms(rows: Sequence[ParityRow], *, width: int, height: int) -> Markup | None:
    """Size against score, or without scores against the share of the tuned model's tokens; None for few forms.

    Args:
        rows: The parity table.
        width: Of the picture, in its own units.
        height: Likewise.
    """
    is_scored = all(row.score is not None for row in rows if row.verdict != "not run here")
    # The tuned model itself is no form that could be shipped: an adapter's size leaves its base out.
    forms = [row for row in rows if row.folder is not None or row.verdict == "not kept"]
    values = [(row, row.score if is_scored else row.token_agreement) for row in forms]
    known = [(row, row.size_bytes / MIB, 100 * value) for row, value in values if value is not None]
    if len(known) < LEAST_FORMS:
        return None
    ticks_x = choose_ticks(0, max(size for _, size, _ in known))
    ticks_y = choose_ticks(min(value for *_, value in known), max(value for *_, value in known))
    frame = Frame(width, height, (ticks_x[0], ticks_x[-1]), (ticks_y[0], ticks_y[-1]))
    label = "score, %" if is_scored else "tokens as the tuned model, %"
    front = sorted({(size, value) for _, size, value in known if _leads(size, value, known)})
    summary = "; ".join(f"{row.name}: {size:.1f} MiB, {value:.1f} %" for row, size, value in known)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, summary),
        *draw_axes(frame, ticks_x, ticks_y, label=label, label_x="size, MiB"),
        draw_line(frame, front, "train"),
        *(mark for row, size, value in known for mark in _mark(frame, row, size, value)),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _leads(size: float, value: float, known: Sequence[tuple[ParityRow, float, float]]) -> bool:
    """Whether no form is at least as small and better, or as good and smaller."""
    return not any((other <= size and score > value) or (other < size and score >= value) for _, other, score in known)


def _mark(frame: Frame, row: ParityRow, size: float, value: float) -> list[Markup]:
    """A form's place: a diamond for one that is kept, a dot for another, with its name."""
    x, y = frame.x(size), frame.y(value)
    words = f"{row.name}: {size:.1f} MiB, {value:.1f} %"
    if row.folder is None:
        dot = Markup('<circle class="validation-dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
        return [dot.format(x, y, words)]
    anchor = "end" if x > frame.width / 2 else "start"
    diamond = Markup('<path class="best-mark" d="M{:.1f} {:.1f}l6 6l-6 6l-6 -6z"><title>{}</title></path>')
    return [
        diamond.format(x, y - 6, words),
        draw_text(x + (-9 if anchor == "end" else 9), y + 4, anchor, row.name, "best-label"),
    ]
