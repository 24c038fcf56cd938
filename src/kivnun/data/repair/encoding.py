"""Files that are not UTF-8 written as UTF-8: UTF-16 and UTF-32 as a whole, others line by line."""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from kivnun.data.files.encoding import decode, find_bad_byte, find_encoding, find_unicode, guess_encoding
from kivnun.data.files.unpack import UnreadableError, stream_bytes
from kivnun.data.repair.output import both_or_neither, check_target, log_path, open_log, open_whole
from kivnun.data.repair.rewrite import Repair, Target
from kivnun.data.repair.source import Source
from kivnun.errors import UserError

_START_BYTES = 4096
_GUESS_BYTES = 1 << 20
_EXCERPT_CHARACTERS = 60
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_HINT = "name it with --encoding, such as cp1255, cp1252 or utf-16"
_NAMES = {
    "cp1255": "Hebrew of Windows",
    "cp1251": "Cyrillic of Windows",
    "cp1252": "Western European of Windows",
    "latin-1": "Western European",
    "cesu-8": "UTF-8 whose characters beyond U+FFFF are two halves, as Java and MySQL write it",
}


@dataclass(frozen=True)
class EncodingGuess:
    """How the bytes of a file are taken.

    Attributes:
        encoding: The encoding: of the whole file, or of those lines that are not UTF-8.
        why: What speaks for it, with an excerpt to judge it by.
        is_whole: Whether the whole file is in this encoding.
        mark: The byte-order mark, which is left out.
    """

    encoding: str
    why: str
    is_whole: bool
    mark: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some of the file as UTF-8, and the number of the line if it was another encoding's."""

    text: bytes
    num_lines: int
    decoded_line: int = 0


def fix_encoding(source: Source, target: Target, *, encoding: str | None = None) -> Repair:
    """Write a file as UTF-8 without a byte-order mark; lines that are UTF-8 stay as they are, to the byte.

    Args:
        source: The file, of any layout that is text.
        target: Where to.
        encoding: What its bytes are; None guesses and says why.

    Raises:
        UserError: `data-encoding` if no encoding fits, `data-malformed` if the file cannot be unpacked, and what
            writing raises.
    """
    check_target(source, target.out, force=target.force)
    guess = guess_file(source, encoding)
    counts: Counter[str] = Counter()
    num_lines = 0
    with both_or_neither(target.out) as stack:
        file = stack.enter_context(nullcontext() if target.dry_run else open_whole(target.out))
        log = stack.enter_context(nullcontext(_ignore) if target.dry_run else open_log(log_path(target.out)))
        if guess.mark:
            counts["mark left out: byte-order mark"] = 1
            log({"where": source.name, "action": "mark left out", "reason": f"byte-order mark {guess.mark.hex(' ')}"})
        for piece in _decode(source, guess):
            num_lines += piece.num_lines
            if piece.decoded_line:
                counts[f"decoded: {guess.encoding}"] += 1
                where = f"{source.name}:{piece.decoded_line}"
                log({"where": where, "action": "decoded", "reason": f"not UTF-8; read as {guess.encoding}"})
            if file is not None:
                file.write(piece.text)
        if guess.is_whole:
            counts[f"decoded: {guess.encoding}"] = num_lines
            log({"where": source.name, "action": "decoded", "reason": guess.why, "lines": num_lines})
    names = (str(target.out), str(log_path(target.out)))
    return Repair(source.name, *names, num_lines, num_lines, dict(counts), (guess.why,))


def guess_file(source: Source, encoding: str | None) -> EncodingGuess:
    """What the bytes of a file are, and why.

    Args:
        source: The file.
        encoding: What the user says that they are.

    Raises:
        UserError: `data-encoding` if there is no such encoding, or none that fits.
    """
    form, mark = find_unicode(b"".join(_take_start(source)))
    if encoding is not None:
        name = find_encoding(encoding)
        # A mark tells the order of bytes, which the name may leave open.
        name = form if mark and form.startswith(name) else name
        is_whole = name.startswith(("utf-16", "utf-32"))
        return EncodingGuess(name, f"{encoding}, as it was asked for", is_whole=is_whole, mark=mark)
    if form != "utf-8":
        sign = f"begins with the byte-order mark {mark.hex(' ')}" if mark else "has zero bytes where it has them"
        return EncodingGuess(form, f"{form.upper()}: the file {sign}", is_whole=True, mark=mark)
    return _guess_lines(source, mark)


def _guess_lines(source: Source, mark: bytes) -> EncodingGuess:
    """One guess for all lines that are not UTF-8, from the first megabyte of them."""
    num_bad = first = 0
    sample = b""
    for number, line in enumerate(_cut_lines(source, mark), start=1):
        if not _is_utf8(line):
            num_bad += 1
            first = first or number
            sample += line if len(sample) < _GUESS_BYTES else b""
    if not num_bad:
        why = "the file is UTF-8 behind a byte-order mark" if mark else "the file is UTF-8 already"
        return EncodingGuess("utf-8", why, is_whole=False, mark=mark)
    encoding = guess_encoding(sample)
    if encoding is None:
        place = find_bad_byte(sample) or 0
        raise UserError(
            "data-encoding",
            f"{source.name}: {num_bad:,} line(s) are not UTF-8, and no other encoding is likely",
            details=[f"{source.name}:{first}: byte 0x{sample[place]:02x}"],
            hint=_HINT,
        )
    excerpt = _read_excerpt(sample.partition(b"\n")[0], encoding)
    said = f"{encoding} ({_NAMES[encoding]}) for {num_bad:,} line(s) that are not UTF-8"
    why = f"{said}: {_say_letters(sample, encoding)}line {first} reads {excerpt}"
    return EncodingGuess(encoding, why, is_whole=False, mark=mark)


def _say_letters(sample: bytes, encoding: str) -> str:
    if encoding == "cesu-8":
        return ""
    high = b"".join(_HIGH_BYTES.findall(sample))
    letters = sum(character.isalpha() for character in high.decode(encoding, "replace"))
    return f"{letters / len(high):.0%} of their bytes above 0x7f are letters in it, and "


def _read_excerpt(line: bytes, encoding: str) -> str:
    """What stands around the first letters that are not ASCII."""
    text = decode(line, encoding) if encoding == "cesu-8" else line.decode(encoding, "replace")
    first = next((place for place, character in enumerate(text) if not character.isascii()), 0)
    start = max(0, first - _EXCERPT_CHARACTERS // 3)
    return repr(text[start : start + _EXCERPT_CHARACTERS].strip())


def _decode(source: Source, guess: EncodingGuess) -> Iterator[_Piece]:
    if guess.is_whole:
        yield from _decode_whole(source, guess)
        return
    for number, line in enumerate(_cut_lines(source, guess.mark), start=1):
        if _is_utf8(line):
            yield _Piece(line, 1)
            continue
        try:
            yield _Piece(decode(line, guess.encoding).encode(), 1, number)
        except UnicodeDecodeError as error:
            raise _refuse(source, number, error, guess.encoding) from error


def _decode_whole(source: Source, guess: EncodingGuess) -> Iterator[_Piece]:
    decoder = codecs.getincrementaldecoder(guess.encoding)()
    skipped = len(guess.mark)
    line = 1
    try:
        for chunk in _stream(source):
            text = decoder.decode(chunk[skipped:]).encode()
            skipped = max(0, skipped - len(chunk))
            line += text.count(b"\n")
            yield _Piece(text, text.count(b"\n"))
        text = decoder.decode(b"", final=True).encode()
        yield _Piece(text, text.count(b"\n"))
    except UnicodeDecodeError as error:
        raise _refuse(source, line, error, guess.encoding) from error


def _refuse(source: Source, line: int, error: UnicodeDecodeError, encoding: str) -> UserError:
    byte = error.object[error.start]
    return UserError(
        "data-encoding",
        f"{source.name}:{line}: byte 0x{byte:02x} is not {encoding}",
        hint=_HINT,
    )


def _cut_lines(source: Source, mark: bytes) -> Iterator[bytes]:
    """Lines with their ends, the first one without the byte-order mark."""
    return cut_at_newlines(_without_start(_stream(source), len(mark)))


def cut_at_newlines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, of bytes that come in chunks.

    Args:
        chunks: Bytes; a line may reach over any number of them.
    """
    # A line's beginning waits as a list: joined to each chunk anew, a line of a gigabyte would be copied for hours.
    waiting: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        waiting.append(first)
        for line in others:
            yield b"".join((*waiting, b"\n"))
            waiting = [line]
    if any(waiting):
        yield b"".join(waiting)


def _without_start(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[size:]
        size = max(0, size - len(chunk))


def _take_start(source: Source) -> Iterator[bytes]:
    size = 0
    for chunk in _stream(source):
        yield chunk
        size += len(chunk)
        if size >= _START_BYTES:
            return


def _stream(source: Source) -> Iterator[bytes]:
    try:
        yield from stream_bytes(source.file.path)
    except UnreadableError as error:
        raise UserError("data-malformed", f"{source.name} {error}", hint="copy or download it again") from error


def _is_utf8(line: bytes) -> bool:
    return find_bad_byte(line) is None


def _ignore(*_: object) -> None:
    """In place of a log."""
