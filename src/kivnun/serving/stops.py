"""Stop texts: an answer ends before the first of them, and nothing of one is told before it is known to be none."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class StopCutter:
    """Text that may go out, of text that comes in pieces; how it is cut into pieces changes nothing.

    The stop text that is complete first ends the answer; of two that are complete at once, the longer one.

    Attributes:
        stops: Texts of one character at least.
        found: The stop text that ended the answer.
    """

    stops: Sequence[str]
    found: str | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    def push(self, text: str) -> str:
        """What may go out after more text.

        Args:
            text: What comes next.
        """
        if self.found is not None:
            return ""
        held = self._held + text
        first = self._first_complete(held)
        if first is not None:
            self.found, self._held = first, ""
            return held[: held.index(first)]
        keep = num_begun(held, self.stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held

    def _first_complete(self, text: str) -> str | None:
        ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in self.stops if stop in text]
        return min(ends)[2] if ends else None


def num_begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop text.

    Args:
        text: Without a whole stop text.
        stops: What may come.
    """
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((length for length in lengths if stop.startswith(text[-length:])), longest)
    return longest
