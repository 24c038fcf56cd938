"""Files become rows, as a stream: what cannot be read becomes findings, and nothing is raised for what a file holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from kivnun.data.files.arrays import read_array, read_object, read_snips, read_squad, read_super_ni
from kivnun.data.files.columnar import read_arrow, read_parquet
from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.documents import read_columns, read_documents
from kivnun.data.files.encoding import TextSource
from kivnun.data.files.lines import BLOCK_BYTES, LineBlock, cut_blocks, rows_of_block
from kivnun.data.files.llama_factory import rename_fields
from kivnun.data.files.tables import read_csv, read_tsv
from kivnun.data.findings import CHECKS, Finding
from kivnun.data.rows import Row

__all__ = ["LAYOUTS", "LineBlock", "ReadOptions", "rows_of_block", "stream_blocks", "stream_rows"]


def stream_rows(file: DataFile, options: ReadOptions | None = None) -> Iterator[Row | Finding]:
    """The rows of a file and what is wrong with it, in order; memory holds one piece of it.

    Raises:
        UserError: `data-encoding`, if the encoding in the options does not exist.
    """
    is_silent = True
    for item in _stream(file, options or ReadOptions()):
        is_silent = is_silent and isinstance(item, Finding) and CHECKS[item.code].severity == "note"
        yield _shape_row(item, file) if isinstance(item, Row) else item
    if is_silent:
        yield Finding("file-empty", str(file.path), 0, "no rows")


def stream_blocks(
    file: DataFile, options: ReadOptions | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[LineBlock | Finding]:
    """A JSONL file in blocks of whole lines, which `rows_of_block` reads in any process; memory holds one block.

    Raises:
        UserError: `data-encoding`, if the encoding in the options does not exist.
    """
    source = TextSource(file.path, (options or ReadOptions()).encoding)
    for item in cut_blocks(source, block_bytes):
        yield from source.take_findings()
        yield item
    yield from source.take_findings()


def _stream(file: DataFile, options: ReadOptions) -> Iterator[Row | Finding]:
    if file.layout == "lines":
        yield from read_columns(file.columns or {"text": file.path}, options.encoding)
    elif file.layout in COLUMNAR:
        yield from COLUMNAR[file.layout](file.path)
    else:
        source = TextSource(file.path, options.encoding)
        for item in TEXTS[file.layout](source, options):
            yield from source.take_findings()
            yield item
        yield from source.take_findings()


def _read_jsonl(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    for block in cut_blocks(source):
        if isinstance(block, LineBlock):
            yield from rows_of_block(block)
        else:
            yield block


def _shape_row(row: Row, file: DataFile) -> Row:
    """The row with the names that the folder gives to its values and columns."""
    fields: Mapping[str, object] = row.fields
    if file.renames or file.tags:
        fields = rename_fields(fields, file.renames, file.tags)
    if file.value_names:
        fields = {name: _name_value(value, file.value_names.get(name)) for name, value in fields.items()}
    return row if fields is row.fields else replace(row, fields=fields)


def _name_value(value: object, names: Mapping[str, str] | None) -> object:
    return value if names is None else names.get(str(value).strip(), value)


TEXTS: dict[str, Callable[[TextSource, ReadOptions], Iterator[Row | Finding]]] = {
    "jsonl": _read_jsonl,
    "json": read_array,
    "json-object": read_object,
    "super-ni": read_super_ni,
    "snips": read_snips,
    "squad": read_squad,
    "csv": read_csv,
    "tsv": read_tsv,
    "text": read_documents,
}
COLUMNAR: dict[str, Callable[[Path], Iterator[Row | Finding]]] = {"parquet": read_parquet, "arrow": read_arrow}
LAYOUTS: tuple[str, ...] = (*TEXTS, *COLUMNAR, "lines")
