"""What a check says about a row before its place is known, and how values are shown in it."""

Problem = tuple[str, str]
"""A check's code and what was found, with its value."""

_LONGEST_VALUE = 120


def cut_value(text: str, longest: int = _LONGEST_VALUE) -> str:
    """A value for a message: on one line and not too long."""
    line = " ".join(text[: longest * 2].split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
