"""JSONL: one object on each line, cut into blocks that any process can read on its own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import orjson

from kivnun.data.files.encoding import TextSource, with_line_feeds
from kivnun.data.files.objects import Place, count_written_keys, parse_object, surely_keeps_all
from kivnun.data.files.unpack import CHUNK_BYTES
from kivnun.data.findings import Finding
from kivnun.data.rows import Row

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 256 << 20
# Few enough that the garbage collector seldom walks through parsed rows.
_LINES_AT_A_TIME = 128


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Some whole lines of a JSONL file.

    Attributes:
        file: The file, as the user named it.
        first_line: Number of the first line, from 1.
        data: The lines.
        offset: Bytes of the unpacked file before them.
    """

    file: str
    first_line: int
    data: bytes
    offset: int = 0


def cut_blocks(source: TextSource, block_bytes: int = BLOCK_BYTES) -> Iterator[LineBlock | Finding]:
    """Cut a file into blocks of whole lines; memory holds one block, or the longest line."""
    file = str(source.path)
    line, offset = 1, None
    parts: list[bytes] = []
    size = 0
    for chunk in with_line_feeds(source.chunks(min(CHUNK_BYTES, block_bytes))):
        offset = source.skipped if offset is None else offset
        cut = chunk.rfind(b"\n") + 1
        parts.append(chunk[:cut] if cut else chunk)
        size += len(parts[-1])
        if cut and size >= block_bytes:
            block = LineBlock(file, line, b"".join(parts), offset)
            yield block
            line += block.data.count(b"\n")
            offset += len(block.data)
            parts, size = [chunk[cut:]], len(chunk) - cut
        elif cut:
            parts.append(chunk[cut:])
            size += len(chunk) - cut
        if size > MAX_LINE_BYTES + block_bytes:
            source.broken = True
            yield Finding("json-syntax", file, line, f"a line is longer than {MAX_LINE_BYTES >> 20} MiB")
            return
    rest = b"".join(parts)
    if source.broken:
        # What follows the last line break was cut off.
        rest = rest[: rest.rfind(b"\n") + 1]
    if rest:
        yield LineBlock(file, line, rest, offset or 0)


def rows_of_block(block: LineBlock) -> Iterator[Row | Finding]:
    """The rows of a block, in order; a line that is none becomes findings."""
    lines = block.data.split(b"\n")
    # The last piece is what stands behind the last line break: no line, if it is empty.
    if not lines[-1]:
        lines.pop()
    blank: list[int] = []
    offset = block.offset
    for start in range(0, len(lines), _LINES_AT_A_TIME):
        part = lines[start : start + _LINES_AT_A_TIME]
        parsed = [_parse(line) for line in part]
        # What is lost is looked for line by line only where the lines together do not surely keep all.
        num_written = count_written_keys([fields for fields in parsed if fields is not None])
        clean = surely_keeps_all(b"\n".join(part), num_written)
        for number, (line, fields) in enumerate(zip(part, parsed, strict=True), start=block.first_line + start):
            if fields is not None and clean:
                yield Row(fields, block.file, number)
            elif line.strip():
                yield from _look_closely(line, Place(block.file, number, offset))
            else:
                blank.append(number)
            offset += len(line) + 1
    if blank:
        yield Finding("line-blank", block.file, blank[0], f"{len(blank)} empty line(s), from here on, are skipped")


def _look_closely(line: bytes, place: Place) -> Iterator[Row | Finding]:
    fields, findings = parse_object(line, place)
    yield from findings
    if fields is not None:
        yield Row(fields, place.file, place.line)


def _parse(line: bytes) -> Mapping[str, object] | None:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None
