"""The preview as one HTML file that needs no network and no script."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kivnun.data.preview import ShownRow, describe_count
from kivnun.data.token_pieces import CUT_SIGN, NEWLINE_SIGN, TokenPiece, count_tokens, split_lines
from kivnun.data.visible import make_visible

TEMPLATE = "preview.html.jinja"
# A list of more tokens is longer than anybody reads, and makes the page slow.
MAX_LISTED_TOKENS = 3_000
SPACE_SIGN = "\u2423"
TAGS = {"trained": "ins", "rejected": "del", "read": "span"}


def render_preview(rows: Sequence[ShownRow], title: str, facts: Sequence[str] = ()) -> str:
    """The whole page as HTML text; every value from outside is escaped.

    Args:
        rows: The rows.
        title: What they are, in a few words.
        facts: What the rows were taken for and what shows them, one line each.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "show": make_visible,
        "number": "{:,}".format,
        "piece": _show_piece,
        "lines": _html_lines,
        "count": describe_count,
    }
    counts = [count_tokens(row.pieces) for row in rows]
    tokens = sum(total for _, total in counts)
    words = [piece for row in rows for piece in (*row.pieces, *row.rejected) if not piece.is_special]
    characters, spelled = sum(len(piece.text) for piece in words), sum(len(piece.token_ids) for piece in words)
    return environment.get_template(TEMPLATE).render(
        title=title,
        facts=facts,
        rows=rows,
        tokens=tokens,
        trained=sum(trained for trained, _ in counts),
        characters_per_token=characters / spelled if spelled else 0.0,
        roles={piece.role for row in rows for piece in (*row.pieces, *row.rejected)},
        is_cut=any(not piece.fits for row in rows for piece in row.pieces),
        most_listed=MAX_LISTED_TOKENS,
    )


def _html_lines(pieces: Sequence[TokenPiece]) -> Markup:
    """A row's text in lines that each read in their own direction, with the number of each token under the pointer."""
    lines: list[Markup] = []
    is_cut = False
    for line in split_lines(pieces):
        parts: list[Markup] = []
        for (role, fits), part in groupby(line, lambda piece: (piece.role, piece.fits)):
            if not fits and not is_cut:
                parts.append(Markup('<b class="cut" title="the model\'s context ends here">{}</b>').format(CUT_SIGN))
            is_cut = not fits
            beyond = "" if fits else Markup(' class="beyond"')
            tokens = Markup("").join(map(_html_token, part))
            parts.append(Markup("<{0}{1}>{2}</{0}>").format(TAGS[role], beyond, tokens))
        lines.append(Markup('<div dir="auto">{}</div>').format(Markup("").join(parts)))
    return Markup("\n").join(lines)


def _show_piece(text: str) -> str:
    """A token's text where it stands alone: white space would show as nothing."""
    return make_visible(text.replace("\n", NEWLINE_SIGN)) if text.strip(" ") else SPACE_SIGN * len(text)


def _html_token(piece: TokenPiece) -> Markup:
    numbers = " ".join(map(str, piece.token_ids))
    if piece.is_special and numbers:
        # A sign stays whole: behind Hebrew its brackets would part from its name.
        return Markup('<bdi dir="ltr" class="special" title="{}">{}</bdi>').format(numbers, piece.text)
    return Markup('<span class="token" title="{}">{}</span>').format(numbers, piece.text)
