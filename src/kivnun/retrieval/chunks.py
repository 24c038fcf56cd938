"""Documents are cut into chunks: blocks below one heading together, long ones at the ends of sentences.

Every character of the document that is no white space is in some chunk, and a chunk is exactly the document's text
between its two offsets.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

from semchunk.semchunk import chunk as split_semantically

from kivnun.retrieval.passages import Block, Chunk, Document

CHUNKING_VERSION = "1"
"""Changes whenever a document is cut in another way than before."""

LONGEST_TOKEN = 32
"""Characters that count as one token at the least, so that a counter of words does not let a wall of letters pass."""

_LONGEST_SENTENCE = 20_000

Span = tuple[int, int]
CountTokens = Callable[[str], int]

_WORD = re.compile(
    r"[\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\U00020000-\U000323af]|[^\W\u3005-\u3007\u3041-\u30ff"
    r"\u3400-\u9fff\U00020000-\U000323af]+"
)
# An empty line, the next item of a list, or what follows the end of a sentence.
_SENTENCE_BORDER = re.compile(
    r"\n[^\S\n]*\n\s*|\n(?=[^\S\n]*(?:[-*•·]|\d{1,3}[.)])\s)|(?<=[.!?…׃؟。！？])[\"'”’»)\]]*\s+(?=[^a-z\s])|(?<=[。！？])"
)
_LINE_BORDER = re.compile(r"\n\s*")
_HAS_LINES = re.compile(r"^[^\S\n]*(?:```|~~~|\|)|^[^\n|]*\|[^\n|]*\|", re.MULTILINE)
_WORD_START = re.compile(r"(?<=\s)\S")


def count_words(text: str) -> int:
    """Words of a text, each letter of Han and Kana for one: the tokens where there is no tokenizer."""
    return len(_WORD.findall(text))


def cut(document: Document, *, count_tokens: CountTokens, max_tokens: int, overlap: int = 0) -> list[Chunk]:
    """Cut a document into chunks.

    Args:
        document: What is cut.
        count_tokens: Tokens of a text, as whatever reads the chunks counts them.
        max_tokens: Most tokens of a chunk; only a single character may have more.
        overlap: Most tokens that a chunk repeats of the one before it below the same heading.

    Raises:
        ValueError: If the overlap leaves no room for anything new.
    """
    if max_tokens < 1 or not 0 <= overlap < max_tokens:
        raise ValueError(f"an overlap of {overlap} tokens does not fit into chunks of {max_tokens}")
    cutter = _Cutter(document.text, count_tokens, max_tokens, overlap)
    chunks: list[Chunk] = []
    for heading, section in groupby(cover_text(document), key=lambda block: block.heading):
        for start, end in cutter.cut_section([(block.start, block.end) for block in section]):
            text = document.text[start:end]
            chunks.append(Chunk(document.id, len(chunks), start, end, text, heading, document.metadata))
    return chunks


def cover_text(document: Document) -> Iterator[Block]:
    """The blocks of a document, and one for each text that stands between them."""
    place, heading = 0, ""
    for block in document.blocks:
        if document.text[place : block.start].strip():
            yield Block(place, block.start, heading)
        yield block
        place, heading = block.end, block.heading
    if document.text[place:].strip():
        yield Block(place, len(document.text), heading)


class _Cutter:
    """One document at work."""

    def __init__(self, text: str, count_tokens: CountTokens, max_tokens: int, overlap: int) -> None:
        self._text = text
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._overlap = overlap

    def cut_section(self, blocks: Sequence[Span]) -> list[Span]:
        """The chunks of neighbouring blocks below one heading."""
        whole = (blocks[0][0], blocks[-1][1])
        # A token of most tokenizers has no more letters, so that counting a whole book is spared.
        if whole[1] - whole[0] <= self._max_tokens * LONGEST_TOKEN and self._count(whole) <= self._max_tokens:
            return [trimmed for span in [whole] if (trimmed := self._trim(span))]
        limit = self._max_tokens - self._overlap
        units = [unit for block in blocks for unit in self._cut_block(block, limit)]
        spans = [trimmed for span in self._fill(units, limit) if (trimmed := self._trim(span))]
        if not self._overlap:
            return spans
        return spans[:1] + [self._reach_back(before, span) for before, span in pairwise(spans)]

    def _cut_block(self, block: Span, limit: int) -> list[Span]:
        """A block that fits, or its sentences (the lines of tables and code); what still is too long in pieces."""
        if self._fits(block, limit):
            return [block]
        text = self._text[slice(*block)]
        border = _LINE_BORDER if _HAS_LINES.search(text) else _SENTENCE_BORDER
        borders = [block[0], *(block[0] + found.end() for found in border.finditer(text)), block[1]]
        units: list[Span] = []
        for unit in self._fill([span for span in pairwise(borders) if span[0] < span[1]], limit):
            units += self._cut_long(unit, limit)
        return units

    def _cut_long(self, span: Span, limit: int) -> list[Span]:
        return [span] if self._fits(span, limit) else self._cut_sentence(span, limit)

    def _cut_sentence(self, span: Span, limit: int) -> list[Span]:
        """Pieces of a long sentence, at its clauses, then words, then letters."""
        text = self._text[slice(*span)]
        if len(text) > _LONGEST_SENTENCE and (words := self._cut_words(span, limit)):
            return [piece for word in words for piece in self._cut_long(word, limit)]
        try:
            _, offsets = split_semantically(text, limit, self._measure, memoize=False, offsets=True)
        except RecursionError:
            # It goes down for ever where a single letter has too many tokens.
            return list(self._fill([(place, place + 1) for place in range(*span)], limit))
        borders = [span[0], *(span[0] + int(start) for start, _ in offsets[1:]), span[1]]
        return [piece for piece in pairwise(borders) if piece[0] < piece[1]]

    def _cut_words(self, span: Span, limit: int) -> list[Span]:
        """Words of a wall of text, together as long as they fit; empty where it is one word.

        The splitter takes a level of recursion, with the whole text, for each length of white space that occurs.
        """
        borders = [span[0], *(found.start() for found in _WORD_START.finditer(self._text, *span)), span[1]]
        words = list(self._fill([word for word in pairwise(borders) if word[0] < word[1]], limit))
        return words if len(words) > 1 else []

    def _fill(self, units: Sequence[Span], limit: int) -> Iterator[Span]:
        """Neighbours together as long as they fit."""
        start, end, total = -1, -1, 0
        for unit in units:
            size = self._count(unit)
            # Counts of parts add up to about the count of the whole: it is counted only where that could matter.
            if start >= 0 and total + size <= limit:
                total += size + unit[0] - end
                total = self._count((start, unit[1])) if total * 2 > limit else total
                if total <= limit:
                    end = unit[1]
                    continue
            if start >= 0:
                yield start, end
            start, end, total = unit[0], unit[1], size
        if start >= 0:
            yield start, end

    def _reach_back(self, before: Span, span: Span) -> Span:
        """A chunk with the last words of the one before it."""
        text = self._text
        candidates = [found.start() for found in _WORD_START.finditer(text, before[0] + 1, span[0])]
        if not candidates or not self._fits((candidates[-1], span[0]), self._overlap):
            # One long word, or a script without spaces.
            candidates = list(range(max(before[0] + 1, span[0] - self._overlap * LONGEST_TOKEN), span[0]))
        first = bisect_left(candidates, x=True, key=lambda start: self._fits((start, span[0]), self._overlap))
        first = bisect_left(
            candidates, x=True, lo=first, key=lambda start: self._fits((start, span[1]), self._max_tokens)
        )
        return self._trim((candidates[first], span[1])) or span if first < len(candidates) else span

    def _fits(self, span: Span, limit: int) -> bool:
        return self._count(span) <= limit

    def _count(self, span: Span) -> int:
        return self._measure(self._text[slice(*span)])

    def _measure(self, text: str) -> int:
        return max(self._count_tokens(text), -(-len(text) // LONGEST_TOKEN))

    def _trim(self, span: Span) -> Span | None:
        text = self._text[slice(*span)]
        start = span[0] + len(text) - len(text.lstrip())
        end = span[0] + len(text.rstrip())
        return (start, end) if start < end else None
