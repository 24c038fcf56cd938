"""Texts as UTF-8, whatever they were: byte-order marks, UTF-16 and UTF-32, and a guess where bytes are not UTF-8."""

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kivnun.data.files.unpack import CHUNK_BYTES, UnreadableError, stream_bytes
from kivnun.data.findings import Finding
from kivnun.errors import UserError

CESU = "cesu-8"
_MARKS = (
    ("utf-8", codecs.BOM_UTF8),
    # Before UTF-16, whose mark is the beginning of this one.
    ("utf-32-le", codecs.BOM_UTF32_LE),
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
)
_SAMPLE_BYTES = 4096
_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_CESU_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")


class TextSource:
    """A file as UTF-8 bytes, with what was found on the way.

    Attributes:
        path: The file.
        findings: What was found since somebody last took it out.
        broken: Whether the file ended too early, so that its last line is no fault of its own.
        skipped: Number of bytes of the byte-order mark, before the first byte that `chunks` gives.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self.broken = False
        self.skipped = 0
        self._encoding = encoding

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The text in pieces; a file that cannot be read further ends here, with a finding.

        Raises:
            UserError: `data-encoding`, if the encoding that was asked for does not exist.
        """
        try:
            yield from self._decode(stream_bytes(self.path, chunk_bytes))
        except UnreadableError as error:
            self._end("file-unreadable", 0, str(error))

    def take_findings(self) -> list[Finding]:
        """What was found since the last call."""
        taken, self.findings = self.findings, []
        return taken

    def _decode(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        first = next(chunks, b"")
        while len(first) < _SAMPLE_BYTES and (more := next(chunks, b"")):
            first += more
        encoding, mark = find_unicode(first)
        self.skipped = len(mark)
        if mark and encoding == "utf-8":
            self._find("encoding-bom", 1, "the file begins with a UTF-8 byte-order mark, which is skipped")
        if self._encoding is not None:
            encoding = _choose_form(find_encoding(self._encoding), encoding)
        elif encoding != "utf-8":
            self._find("encoding-utf16", 1, f"the file is {encoding.upper()}, not UTF-8")
        rest = _chain(first[len(mark) :], chunks)
        if encoding == CESU:
            yield from _join_surrogates(rest)
        elif encoding == "utf-8":
            yield from rest
        else:
            yield from self._transcode(rest, encoding)

    def _transcode(self, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)()
        line = 1
        try:
            for chunk in chunks:
                text = decoder.decode(chunk).encode()
                line += text.count(b"\n")
                yield text
            yield decoder.decode(b"", final=True).encode()
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            self._end("encoding-not-utf8", line, f"byte 0x{error.object[error.start]:02x} is not {encoding.upper()}")
        except UnicodeError as error:
            # UTF-7 and the escapes of programming languages can spell half of a surrogate pair.
            self._end("encoding-not-utf8", line, f"cannot be read as {encoding.upper()}: {error}")

    def _find(self, code: str, line: int, message: str) -> None:
        self.findings.append(Finding(code, str(self.path), line, message))

    def _end(self, code: str, line: int, message: str) -> None:
        self.broken = True
        self._find(code, line, message)


def with_line_feeds(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same text with line feeds, if its lines end in carriage returns only, as those of old Macs do."""
    is_old = None
    for chunk in chunks:
        is_old = ends_in_returns(chunk) if is_old is None else is_old
        yield chunk.replace(b"\r", b"\n") if is_old else chunk


def ends_in_returns(start: bytes) -> bool:
    """Whether the lines of a text end in carriage returns only, as far as its beginning shows."""
    # The line feed that belongs to the last one may be what comes next.
    return b"\n" not in start and b"\r" in start[:-1]


def find_unicode(start: bytes) -> tuple[str, bytes]:
    """The Unicode form of a text by its first bytes, and its byte-order mark."""
    for name, mark in _MARKS:
        if start.startswith(mark):
            return name, mark
    sample = start[: min(_SAMPLE_BYTES, len(start) & ~3)]
    if len(sample) < 4:
        return "utf-8", b""
    # High bytes of UTF-16 are 0 for Latin letters and 5 for Hebrew ones; texts in UTF-8 have hardly any of either.
    low = [sum(byte in (0, 5) for byte in sample[place::4]) * 4 / len(sample) for place in range(4)]
    full = [share > 0.6 for share in low]
    forms = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return forms.get((full[0], full[1], full[2], full[3]), "utf-8"), b""


def find_bad_byte(data: bytes) -> int | None:
    """Place of the first byte that is not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def describe_bad_bytes(file: str, line: int, offset: int, data: bytes) -> list[Finding]:
    """One finding for each line of some data that has bytes which are not UTF-8.

    Args:
        file: The file, for the message.
        line: Line on which the data begins.
        offset: Bytes of the unpacked file that stand before the data.
        data: One line or more.
    """
    found = []
    guess = guess_encoding(data)
    fits = f"; {guess} fits" if guess else ""
    for part in data.split(b"\n"):
        bad = find_bad_byte(part)
        if bad is not None:
            place = f"byte {bad + 1} of the line, offset {offset + bad} of the file"
            found.append(
                Finding("encoding-not-utf8", file, line, f"byte 0x{part[bad]:02x} is not UTF-8 ({place}){fits}")
            )
        offset += len(part) + 1
        line += 1
    return found


def guess_encoding(data: bytes) -> str | None:
    """Which encoding some bytes that are not UTF-8 are likely in, or None: a guess, for people to confirm."""
    if _CESU_PAIR.search(data) and find_bad_byte(_CESU_PAIR.sub(b"", data)) is None:
        return CESU
    runs = _HIGH_BYTES.findall(_UTF8_CHARACTER.sub(b"", data))
    letters = b"".join(runs)
    if not letters:
        return None
    joined = sum(len(run) for run in runs if len(run) > 2)
    if joined * 2 < len(letters):
        western = "cp1252" if any(0x80 <= byte < 0xA0 for byte in letters) else "latin-1"
        return western if _can_decode(letters, western) else None
    # Hebrew letters of cp1255 are 0xE0 to 0xFA; Russian in cp1251 goes on to 0xFF and has capitals from 0xC0.
    hebrew = sum(0xE0 <= byte <= 0xFA for byte in letters)
    cyrillic = sum(byte >= 0xC0 for byte in letters)
    if hebrew * 10 >= len(letters) * 8 and not any(byte in letters for byte in b"\xfb\xfc\xff"):
        return "cp1255" if _can_decode(letters, "cp1255") else None
    return "cp1251" if cyrillic * 10 >= len(letters) * 8 and _can_decode(letters, "cp1251") else None


def decode(data: bytes, encoding: str) -> str:
    """Bytes in any encoding that `TextSource` reads, as text.

    Raises:
        UnicodeDecodeError: If some byte is not in that encoding.
        LookupError: If there is no such encoding.
    """
    return b"".join(_join_surrogates([data])).decode() if encoding == CESU else data.decode(encoding)


def _can_decode(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def find_encoding(name: str) -> str:
    """The usual name of an encoding of texts.

    Raises:
        UserError: `data-encoding`, if there is none of this name.
    """
    if name.lower() == CESU:
        return CESU
    try:
        found = codecs.lookup(name).name
        # Python has some, such as hex, that do not give texts.
        with suppress(UnicodeError):
            b"a".decode(found)
    except (LookupError, ValueError) as error:
        raise UserError(
            "data-encoding",
            f"there is no encoding {name!r}",
            hint="use a name such as utf-8, cp1255, latin-1 or utf-16",
        ) from error
    return found


def _choose_form(asked: str, found: str) -> str:
    """UTF-16 and UTF-32 do not say which byte comes first: the file's beginning does, or else it is the low one."""
    if asked not in ("utf-16", "utf-32"):
        return asked
    return found if found.startswith(asked) else f"{asked}-le"


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _join_surrogates(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Characters beyond U+FFFF that Java and MySQL wrote as two halves of three bytes each become one of four."""
    kept = b""
    for chunk in chunks:
        data = _CESU_PAIR.sub(_join_pair, kept + chunk)
        cut = data.find(b"\xed", max(0, len(data) - 5))
        kept = data[cut:] if cut >= 0 else b""
        yield data[:cut] if cut >= 0 else data
    yield kept


def _join_pair(pair: re.Match[bytes]) -> bytes:
    halves = pair[0].decode("utf-8", "surrogatepass")
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()
