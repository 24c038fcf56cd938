"""What a model sees of a row, token by token, and which tokens are trained: pieces, plain text and a page."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup

from kivnun.data.prepare import PreparedRow
from kivnun.models.types import Tokenizer

FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
NEWLINE_SIGN = "\u23ce"
BIDI_CONTROLS = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
# Control characters of the data must neither steer the terminal nor turn the reading direction of what follows.
VISIBLE_SIGNS = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {0x7F: "\u2421"}
    | {code: f"<U+{code:04X}>" for code in BIDI_CONTROLS}
)
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class TokenPiece:
    """Text of one token, or of a few that only together give whole characters.

    Attributes:
        text: What it decodes to.
        trained: Whether it is a target.
        is_special: Whether it is a special token, such as end of text.
        token_ids: The tokens.
    """

    text: str
    trained: bool
    is_special: bool
    token_ids: tuple[int, ...]


def preview_rows(rows: Iterable[PreparedRow], tokenizer: Tokenizer) -> list[list[TokenPiece]]:
    """Each row's tokens as pieces of readable text."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return [list(_cut_pieces(row, tokenizer, special)) for row in rows]


def count_tokens(pieces: Sequence[TokenPiece]) -> tuple[int, int]:
    """Trained tokens and all tokens of a row."""
    trained = sum(len(piece.token_ids) for piece in pieces if piece.trained)
    return trained, sum(len(piece.token_ids) for piece in pieces)


def describe_count(pieces: Sequence[TokenPiece]) -> str:
    """The line under a row: `12 of 41 tokens are trained`."""
    trained, total = count_tokens(pieces)
    return f"{trained} of {total} tokens are trained"


def split_lines(pieces: Sequence[TokenPiece]) -> list[list[TokenPiece]]:
    """Lines as they are shown: cut behind every newline, which shows as a sign like every control character."""
    lines: list[list[TokenPiece]] = [[]]
    for piece in pieces:
        for number, part in enumerate(piece.text.split("\n")):
            if number:
                end = replace(piece, text=NEWLINE_SIGN, token_ids=())
                lines[-1].append(end)
                lines.append([])
            if part:
                lines[-1].append(replace(piece, text=part.translate(VISIBLE_SIGNS)))
    return lines if lines[-1] else lines[:-1]


def plain_text(pieces: Sequence[TokenPiece]) -> str:
    """A row without colour: trained text stands between ⟦ and ⟧, each line reads in its own direction."""
    lines = []
    for line in split_lines(pieces):
        groups = [(trained, "".join(piece.text for piece in part)) for trained, part in groupby(line, _is_trained)]
        text = "".join(f"\u27e6{text}\u27e7" if trained else text for trained, text in groups)
        lines.append(FIRST_STRONG_ISOLATE + text + POP_ISOLATE)
    return "\n".join(lines)


def preview_page(rows: Sequence[Sequence[TokenPiece]], places: Sequence[str], title: str) -> str:
    """A self-contained HTML page of some rows; `places` says where each row stands."""
    cards = Markup("\n").join(
        Markup("<section><h2><bdi>{}</bdi></h2>\n{}\n<p>{}</p></section>").format(
            place, Markup("\n").join(map(_html_line, split_lines(pieces))), describe_count(pieces)
        )
        for pieces, place in zip(rows, places, strict=True)
    )
    return str(_PAGE.format(title=title, cards=cards))


def _is_trained(piece: TokenPiece) -> bool:
    return piece.trained


def _cut_pieces(row: PreparedRow, tokenizer: Tokenizer, special: set[int]) -> Iterator[TokenPiece]:
    """Tokens merged until they decode to whole characters, never across the border of what is trained."""
    ids, trained = row.tokens.input_ids, row.tokens.trained
    before: list[int] = []
    start = 0
    for index, token in enumerate(ids):
        run = ids[start : index + 1]
        # Decoding behind the piece before keeps the spaces that a decoder drops at the beginning of a text.
        text = _decode(tokenizer, before + run)[len(_decode(tokenizer, before)) :]
        borders = index + 1 == len(ids) or trained[index + 1] != trained[index] or ids[index + 1] in special
        if text.endswith(REPLACEMENT) and not borders:
            continue
        yield TokenPiece(text, trained[index], token in special, tuple(run))
        before, start = run, index + 1


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _html_line(line: Sequence[TokenPiece]) -> Markup:
    parts = []
    for trained, part in groupby(line, _is_trained):
        tokens = (
            Markup('<span class="{}" title="{}">{}</span>').format(
                "special" if piece.is_special else "token", " ".join(map(str, piece.token_ids)), piece.text
            )
            for piece in part
        )
        parts.append(Markup("<{0}>{1}</{0}>").format("ins" if trained else "span", Markup("").join(tokens)))
    return Markup('<div dir="auto">{}</div>').format(Markup("").join(parts))


_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --dim: light-dark(#5c5c5c, #a8a8a8); --trained: light-dark(#0a6b2d, #6fdc8c) }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem }}
section div {{ white-space: pre-wrap; overflow-wrap: anywhere }}
section div {{ font-family: ui-monospace, monospace; color: var(--dim) }}
ins {{ color: var(--trained); font-weight: bold; text-decoration: underline; text-underline-offset: .2em }}
.token:hover, .special {{ outline: 1px dotted var(--dim); outline-offset: -1px }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><ins>Bold and underlined</ins> text is trained; the rest is only read. Outlined text is a special token. A pointer on
a token shows its number.</p>
{cards}
</body>
</html>
""")
