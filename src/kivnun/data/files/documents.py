"""Plain text: documents between separator lines, and files that go together line by line."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from kivnun.data.files.dataset import ReadOptions
from kivnun.data.files.encoding import TextSource, describe_bad_bytes
from kivnun.data.files.tables import cut_at_line_feeds
from kivnun.data.findings import Finding
from kivnun.data.rows import Row

DOCUMENT_SEPARATOR = "<|endoftext|>"


def read_documents(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    """Documents between lines that hold only `<|endoftext|>`; without such a line the file is one document."""
    file, name = str(source.path), source.path.name.partition(".")[0]
    lines: list[str] = []
    first = 1
    number = 0
    for number, line in enumerate(_read_lines(source), start=1):
        if isinstance(line, Finding):
            yield line
        elif line.strip() != DOCUMENT_SEPARATOR:
            lines.append(line)
        else:
            yield from _make_document(lines, name, file, first)
            lines, first = [], number + 1
    yield from _make_document(lines, name, file, first)


def _make_document(lines: list[str], name: str, file: str, first: int) -> Iterator[Row]:
    text = "\n".join(lines).strip("\n")
    if text.strip():
        yield Row({"text": text, "source": name}, file, first)


def read_columns(files: Mapping[str, Path], encoding: str | None) -> Iterator[Row | Finding]:
    """Rows of files that go together line by line; they must have as many lines as each other."""
    sources = {name: TextSource(path, encoding) for name, path in files.items()}
    first = str(next(iter(files.values())))
    counts = dict.fromkeys(files, 0)
    for number, cells in enumerate(zip_longest(*map(_read_lines, sources.values())), start=1):
        for name, cell in zip(files, cells, strict=True):
            counts[name] += cell is not None
        yield from (cell for cell in cells if isinstance(cell, Finding))
        texts = [cell for cell in cells if isinstance(cell, str)]
        if len(texts) == len(files):
            yield Row(dict(zip(files, texts, strict=True)), first, number)
    for source in sources.values():
        yield from source.take_findings()
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{path.name} ({name}) has {counts[name]:,}" for name, path in files.items())
        yield Finding("columns-unequal", first, 0, f"lines that go together differ in number: {said}")


def _read_lines(source: TextSource) -> Iterator[str | Finding]:
    """Every line without its end; a finding stands in the place of a line that is not UTF-8."""
    offset = None
    for number, line in enumerate(cut_at_line_feeds(source), start=1):
        offset = source.skipped if offset is None else offset
        try:
            yield line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            yield from describe_bad_bytes(str(source.path), number, offset, line)
        offset += len(line)
