"""Bytes become text, and plain text is cut at its empty lines."""

from kivnun.data.files.encoding import decode, find_unicode, guess_encoding
from kivnun.retrieval.loaders.parsed import CannotReadError, Parsed, cut_paragraphs

_SAMPLE = 4096
_CONTROLS = frozenset(map(chr, [*range(9), *range(14, 27), *range(28, 32)]))
_MOST_CONTROLS = 0.02


def load_text(data: bytes) -> Parsed:
    """Plain text; its encoding is found by its byte-order mark or guessed, and a guess is said.

    Raises:
        CannotReadError: If the bytes are no text.
    """
    text, notes = decode_text(data)
    return Parsed(text, cut_paragraphs(text), notes=notes)


def decode_text(data: bytes, declared: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Bytes as text with line feeds, and what was guessed on the way.

    Args:
        data: The whole file.
        declared: The encoding that the file itself names, if it does; UTF-8 and a byte-order mark go before it.

    Raises:
        CannotReadError: If no encoding fits, or the bytes are no text.
    """
    encoding, mark = find_unicode(data[:_SAMPLE])
    text, notes = _decode_body(data[len(mark) :], encoding, None if mark else declared)
    if _looks_binary(text[:_SAMPLE]):
        raise CannotReadError("is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _decode_body(body: bytes, encoding: str, declared: str | None) -> tuple[str, tuple[str, ...]]:
    if encoding == "utf-8" and b"\0" in body[:_SAMPLE]:
        raise CannotReadError("is binary, not text")
    try:
        return body.decode(encoding), () if encoding == "utf-8" else (f"read as {encoding}",)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise CannotReadError(f"is broken {encoding}") from None
    if declared:
        try:
            return decode(body, declared), (f"read as {declared}, as the file says",)
        except (UnicodeError, LookupError):
            pass
    lenient = body.decode("utf-8", "replace")
    bad = lenient.count("\N{REPLACEMENT CHARACTER}")
    if bad * 10 < sum(not character.isascii() for character in lenient):
        return lenient, (f"{bad} places are not UTF-8 and stand as \N{REPLACEMENT CHARACTER}",)
    guess = guess_encoding(body)
    if guess is None:
        raise CannotReadError("is not UTF-8, and no other encoding fits")
    try:
        return decode(body, guess), (f"read as {guess}, which is a guess",)
    except UnicodeError:
        raise CannotReadError(f"is not UTF-8; {guess} nearly fits") from None


def _looks_binary(sample: str) -> bool:
    if "\0" in sample:
        return True
    return sum(character in _CONTROLS for character in sample) > _MOST_CONTROLS * len(sample)
