"""Tokens as pieces of readable text: whole characters, visible signs, lines that read in their own direction."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from kivnun.data.tokens import TokenizedRow
from kivnun.data.visible import FIRST_STRONG_ISOLATE, POP_ISOLATE, VISIBLE_SIGNS
from kivnun.models.types import Tokenizer

NEWLINE_SIGN, CUT_SIGN = "\u23ce", "\u2702"
LEFT_TO_RIGHT_ISOLATE = "\u2066"
REPLACEMENT = "\ufffd"
BRACKETS = {"trained": ("\u27e6", "\u27e7"), "rejected": ("\u27ea", "\u27eb"), "read": ("", "")}


@dataclass(frozen=True)
class TokenPiece:
    """Text of one token, or of a few that only together give whole characters.

    Attributes:
        text: What it decodes to.
        trained: Whether it is a target.
        is_special: Whether it is a special token, such as end of text.
        token_ids: The tokens.
        rejected: Whether it belongs to an answer that is not wanted, and is not trained as an answer.
        fits: Whether it stands within the model's context.
    """

    text: str
    trained: bool
    is_special: bool
    token_ids: tuple[int, ...]
    rejected: bool = False
    fits: bool = True

    @property
    def role(self) -> str:
        """`trained`, `rejected` or `read`."""
        return "rejected" if self.rejected else "trained" if self.trained else "read"


def count_tokens(pieces: Iterable[TokenPiece]) -> tuple[int, int]:
    """Trained tokens and all tokens of a row."""
    counts = [(len(piece.token_ids) if piece.trained else 0, len(piece.token_ids)) for piece in pieces]
    return sum(trained for trained, _ in counts), sum(total for _, total in counts)


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


def line_texts(line: Sequence[TokenPiece]) -> list[str]:
    """The texts of a line's pieces; in a line with right-to-left letters a special token keeps its own direction.

    Without that, `<|im_end|>` behind Hebrew would fall apart into `im_end` and its brackets.
    """
    turns = any(unicodedata.bidirectional(character) in {"R", "AL"} for piece in line for character in piece.text)
    return [
        f"{LEFT_TO_RIGHT_ISOLATE}{piece.text}{POP_ISOLATE}"
        if turns and piece.is_special and piece.token_ids
        else piece.text
        for piece in line
    ]


def plain_text(pieces: Sequence[TokenPiece]) -> str:
    """A row without colour: trained text stands between ⟦ and ⟧, rejected text between ⟪ and ⟫."""
    lines = []
    is_cut = False
    for line in split_lines(pieces):
        text = ""
        marked = [(piece.role, piece.fits, shown) for piece, shown in zip(line, line_texts(line), strict=True)]
        for (role, fits), part in groupby(marked, lambda each: each[:2]):
            opening, closing = BRACKETS[role]
            text += CUT_SIGN * (not fits and not is_cut) + opening + "".join(shown for *_, shown in part) + closing
            is_cut = not fits
        lines.append(FIRST_STRONG_ISOLATE + text + POP_ISOLATE)
    return "\n".join(lines)


def cut_pieces(tokens: TokenizedRow, tokenizer: Tokenizer) -> list[TokenPiece]:
    """Tokens merged until they decode to whole characters, never across the border of what is trained."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return list(_cut_pieces(tokens, tokenizer, special))


def _cut_pieces(tokens: TokenizedRow, tokenizer: Tokenizer, special: set[int]) -> Iterator[TokenPiece]:
    ids, trained = tokens.input_ids, tokens.trained
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
