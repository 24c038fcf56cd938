"""Rating pairs of answers by keys: a plain loop from keys to ratings and lines, whatever they come from and go to."""

from collections.abc import Callable, Iterator

from kivnun.assessment.ratings import Pressed, RatingSession, ShownPair
from kivnun.data.visible import isolate

# Letters of the Hebrew layout stand on the keys of the Latin ones: nobody should have to switch the keyboard.
KEYS: dict[str, Pressed] = {
    **dict.fromkeys("1lך", "left"),
    **dict.fromkeys("2rר", "right"),
    **dict.fromkeys("3gע", "both_good"),
    **dict.fromkeys("4bנ", "both_bad"),
    **dict.fromkeys("5sד", "skip"),
}
UNDO_KEYS, QUIT_KEYS = frozenset("0uו"), frozenset("q/\x04")
LEGEND = "1 first is better · 2 second is better · 3 both good · 4 both bad · 5 skip · u undo · q quit"
SAID: dict[Pressed, str] = {
    "left": "the first is better",
    "right": "the second is better",
    "both_good": "both are good",
    "both_bad": "both are bad",
    "skip": "skipped",
}
RULE = "─" * 72


def rate_by_keys(session: RatingSession, keys: Iterator[str], out: Callable[[str], None]) -> None:
    """Ask about row after row until all are rated, a key says to quit, or no more keys come.

    Args:
        session: The rater's session; each rating is kept at once.
        keys: Single keys; what is no single character, such as an arrow's sequence, is an unknown key.
        out: Takes lines for the terminal.

    Raises:
        UserError: `disk-full`.
    """
    pair = session.next_pair()
    _show(session, pair, out)
    for key in keys:
        lowered = key.lower()
        if lowered in QUIT_KEYS:
            return
        if lowered in UNDO_KEYS:
            out("the last one is taken back" if session.undo() else "there is nothing to take back")
        elif pair is None:
            return
        elif lowered in KEYS:
            session.rate(pair.row_id, KEYS[lowered])
            out(f"  {SAID[KEYS[lowered]]}")
        else:
            out(f"not a key: {LEGEND}")
            continue
        pair = session.next_pair()
        _show(session, pair, out)


def _show(session: RatingSession, pair: ShownPair | None, out: Callable[[str], None]) -> None:
    done, total = session.progress
    if pair is None:
        out(f"all {total:,} rows are rated; u takes the last one back, any other key ends")
        return
    out(RULE)
    out(f"row {done + 1:,} of {total:,}")
    _show_text("asked", pair.prompt, out)
    for reference in pair.references:
        _show_text("reference", reference, out)
    _show_text("[1] first answer", pair.left, out)
    _show_text("[2] second answer", pair.right, out)
    out(LEGEND)


def _show_text(heading: str, text: str, out: Callable[[str], None]) -> None:
    """A text under its heading; each line reads in its own direction."""
    out(f"── {heading}")
    # An answer of nothing must not look like a fault of the display.
    for line in text.split("\n") if text.strip() else ["(empty)"]:
        out(f"  {isolate(line)}")
