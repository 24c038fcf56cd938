"""Text of the data on a terminal: every character is seen, and none steers the terminal or the reading direction."""

FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
BIDI_CONTROLS = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
VISIBLE_SIGNS = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {0x7F: "\u2421"}
    | {code: f"<U+{code:04X}>" for code in (*range(0x80, 0xA0), *BIDI_CONTROLS, *range(0xD800, 0xE000))}
)


def make_visible(text: str) -> str:
    """A text with signs in place of control characters and of halves of surrogate pairs."""
    return text.translate(VISIBLE_SIGNS)


def isolate(text: str) -> str:
    """A visible text that reads in its own direction, whatever stands around it; ASCII needs no signs for that."""
    visible = make_visible(text)
    return visible if visible.isascii() else FIRST_STRONG_ISOLATE + visible + POP_ISOLATE
