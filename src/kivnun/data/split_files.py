"""Data files cut into train, validation and test files of the same layout, with a record of what went where and why.

The files are read twice: once for what decides where a row goes, once to write it there. Between the two only hashes
and the compared texts of the rows are kept.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import orjson

from kivnun.data.conversation import Conversation
from kivnun.data.duplicates.words import comparable
from kivnun.data.files.dataset import DataFile, DataSet, ReadOptions
from kivnun.data.files.names import SPLIT_RECORD
from kivnun.data.files.read import stream_rows
from kivnun.data.files.write import open_writer
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats import detect_format
from kivnun.data.formats.base import Format
from kivnun.data.grouping import asked_text, group_rows, opening
from kivnun.data.rows import Row
from kivnun.data.sources import first_problems
from kivnun.data.split import SPLITS, Assignment, assign_by_time, assign_splits
from kivnun.data.times import read_moments
from kivnun.errors import UserError
from kivnun.recipe.rules import SPECIAL_GROUPS
from kivnun.recipe.schema import SplitSection
from kivnun.runs import hash_file, write_atomic

SAMPLE_ROWS = 1000
SHOWN_EVERY_ROWS = 2000
WRITABLE = {"jsonl": ".jsonl", "json": ".json", "csv": ".csv", "tsv": ".tsv", "parquet": ".parquet"}
PACKED = (".gz", ".bz2", ".xz", ".zst")

Show = Callable[[str, int], None]
"""Is told what is being done, and with how many rows."""


@dataclass(frozen=True)
class FilesCut:
    """Where the rows of some files go.

    Attributes:
        dataset: The files.
        formats: What each file was taken for, and why.
        places: The split of each row, in the order of the files.
        lines: File number and line of each row.
        num_together: How many rows share a group with another.
        notes: What a user should know.
        ending: Ending of the files to write.
    """

    dataset: DataSet
    formats: Mapping[str, str]
    places: Sequence[str]
    lines: Sequence[tuple[int, int]]
    num_together: int
    notes: Sequence[str]
    ending: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each split that is not empty, train first."""
        found = Counter(self.places)
        return {name: found[name] for name in SPLITS if found[name]}


@dataclass(slots=True)
class _Keys:
    """What decides where rows go, a value for each row."""

    hashes: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    strata: list[str] = field(default_factory=list[str])
    groups: list[Hashable] = field(default_factory=list[Hashable])
    times: list[str] = field(default_factory=list[str])
    lines: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


def cut_files(dataset: DataSet, split: SplitSection, options: ReadOptions, *, show: Show | None = None) -> FilesCut:
    """Read all rows and decide where each goes; nothing is written.

    Rows of no known format, or with faults that their format names, are compared by all of their texts.

    Raises:
        UserError: `data-malformed`, `data-empty`, `data-field`, `template-field` or `split-too-small`.
    """
    keys, formats, notes = _Keys(), dict[str, str](), [f"{note.where}: {note.message}" for note in dataset.notes]
    faults: list[str] = []
    columns: dict[str, None] = {}
    for number, file in enumerate(dataset.files):
        items = stream_rows(file, options)
        head = list(islice(items, SAMPLE_ROWS))
        sample = [item for item in head if isinstance(item, Row)]
        row_format, why = _detect(sample)
        formats[str(file.path)] = why
        num_odd = 0
        for item in chain(head, items):
            if isinstance(item, Finding):
                faults += [f"{item.where}: {item.message}"] if CHECKS[item.code].severity == "error" else []
                continue
            columns.update(dict.fromkeys(item.fields))
            num_odd += _add_keys(keys, item, row_format, split, number)
            if show is not None and not len(keys.hashes) % SHOWN_EVERY_ROWS:
                show("reading", len(keys.hashes))
        if row_format is not None and num_odd:
            notes.append(f"{file.path}: {num_odd} row(s) have faults and are compared by all of their texts")
    _require_rows(dataset, faults, keys)
    named = {file.split for file in dataset.files}
    if len(named) > 1:
        notes.append(f"the files are split already ({', '.join(sorted(named))}): all their rows are cut anew")
    names = sorted({why.partition(":")[0] for why in formats.values()})
    if len(names) > 1:
        notes.append(f"rows of several formats are cut together ({', '.join(names)}); name one file to keep them apart")
    if show is not None:
        show("comparing", len(keys.hashes))
    cut, num_together = _assign(keys, split, columns, dataset.files)
    ending, note = _choose_ending(dataset.files)
    return FilesCut(dataset, formats, cut.places, keys.lines, num_together, (*notes, *note, *cut.notes), ending)


def write_files(
    cut: FilesCut, split: SplitSection, folder: Path, options: ReadOptions, *, show: Show | None = None
) -> dict[str, Path]:
    """Write the files of the splits and the record into an existing folder; whole or not at all.

    Returns:
        The file of each split.

    Raises:
        UserError: `format-loss`, `file-unwritable` or `disk-full`.
    """
    paths = {name: folder / f"{name}{cut.ending}" for name in cut.counts}
    with ExitStack() as stack:
        writers = {name: stack.enter_context(open_writer(path)) for name, path in paths.items()}
        rows = (item for file in cut.dataset.files for item in stream_rows(file, options) if isinstance(item, Row))
        for number, (row, place) in enumerate(zip(rows, cut.places, strict=True)):
            writers[place].write(row.fields)
            if show is not None and not number % SHOWN_EVERY_ROWS:
                show("writing", number)
    record = {**describe_cut(cut, split, paths), "rows": _list_lines(cut)}
    # Escapes and all: the name of a file need not be UTF-8.
    write_atomic(folder / SPLIT_RECORD, json.dumps(record, indent=1) + "\n")
    return paths


def describe_cut(cut: FilesCut, split: SplitSection, paths: Mapping[str, Path]) -> dict[str, object]:
    """What went where and why, as JSON values."""
    return {
        "data": cut.dataset.name,
        "files": [
            {
                "file": str(file.path),
                "layout": file.layout,
                "format": cut.formats[str(file.path)],
                "sha256": {str(path): hash_file(path) for path in (file.columns.values() or (file.path,))},
            }
            for file in cut.dataset.files
        ],
        "split": split.model_dump(mode="json"),
        "splits": {
            name: {"rows": count, **({"file": paths[name].name} if name in paths else {})}
            for name, count in cut.counts.items()
        },
        "rows_kept_together": cut.num_together,
        "notes": list(cut.notes),
    }


def _detect(sample: Sequence[Row]) -> tuple[Format | None, str]:
    """The format of some rows, and what speaks for it; None where they look like nothing that is known."""
    if not sample:
        return None, "no rows"
    try:
        detection = detect_format(sample)
    except UserError as error:
        return None, f"unknown: {error.problem}"
    return detection.format, f"{detection.format.name}: {detection.why}"


def _add_keys(keys: _Keys, row: Row, row_format: Format | None, split: SplitSection, file: int) -> bool:
    """Keep what decides where a row goes; tells whether it could not be read in its format."""
    conversation = _read_row(row, row_format)
    if conversation is not None:
        keys.hashes.append(conversation.content_hash)
        keys.asked.append(asked_text(conversation))
    else:
        keys.hashes.append(hashlib.sha256(_dump(row.fields)).hexdigest())
        keys.asked.append(comparable("\n".join(value for value in row.fields.values() if isinstance(value, str))))
    keys.groups.append(_group_of(row, conversation, split.group_by))
    keys.strata.append(_text_of(row, split.stratify_by))
    keys.times.append(_text_of(row, split.time_by))
    keys.lines.append((file, row.line))
    return conversation is None


def _group_of(row: Row, conversation: Conversation | None, group_by: str | None) -> Hashable:
    """What a row is grouped by; None joins it with nothing."""
    if group_by in row.fields or group_by not in SPECIAL_GROUPS:
        return _text_of(row, group_by) or None
    if group_by == "document":
        return _text_of(row, "source") or row.file
    return opening(conversation) if conversation is not None else None


def _read_row(row: Row, row_format: Format | None) -> Conversation | None:
    try:
        return row_format.read(row) if row_format is not None else None
    except (RowError, RecursionError):
        return None


def _text_of(row: Row, column: str | None) -> str:
    """A field as text, "" where it is missing or null."""
    value = row.fields.get(column) if column is not None else None
    if isinstance(value, str):
        return value
    return "" if value is None else _dump(value).decode()


def _dump(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)


def _require_rows(dataset: DataSet, faults: list[str], keys: _Keys) -> None:
    if faults:
        raise UserError(
            "data-malformed",
            f"{dataset.name}: {len(faults):,} problem(s), and nothing was written",
            details=first_problems(faults),
            hint="mend these rows or take them out; `kivnun check` tells more of them",
        )
    if not keys.hashes:
        raise UserError("data-empty", f"{dataset.name}: no rows", hint="check that the file is the one you meant")


def _assign(
    keys: _Keys, split: SplitSection, columns: Mapping[str, None], files: Sequence[DataFile]
) -> tuple[Assignment, int]:
    """Where each row goes, and how many rows share a group with another."""
    named = {"to stratify by": split.stratify_by, "of times": split.time_by, "to group by": split.group_by}
    for what, column in named.items():
        if column and column not in columns and not (what == "to group by" and column in SPECIAL_GROUPS):
            raise UserError(
                "template-field",
                f"the rows have no column {column!r} {what}",
                details=[f"columns: {', '.join(columns)}"],
                hint="name a column that is there",
            )
    inputs = keys.asked if split.near_duplicates != "ignore" else None
    groups = group_rows(keys.hashes, inputs=inputs, keys=keys.groups if split.group_by else None)
    if split.time_by:
        places = [f"{files[number].path}:{line}" for number, line in keys.lines]
        moments = read_moments(keys.times, places, split.time_by)
        cut = assign_by_time(keys.hashes, moments, split, groups=groups.numbers)
    else:
        cut = assign_splits(keys.hashes, keys.strata, split, groups=groups.numbers)
    sizes = Counter(groups.numbers)
    together = sum(size for size in sizes.values() if size > 1)
    return Assignment(cut.places, (*groups.notes, *cut.notes)), together


def _choose_ending(files: Sequence[DataFile]) -> tuple[str, list[str]]:
    """The ending of the files to write, and what to say where it is another than that of the files that were read."""
    layouts = {file.layout for file in files}
    layout = layouts.pop() if len(layouts) == 1 else ""
    if layout not in WRITABLE:
        return ".jsonl", ["the rows are written as JSONL, since their own layout is only read"]
    packed = {file.path.suffix.lower() for file in files}
    suffix = packed.pop() if len(packed) == 1 else ""
    return WRITABLE[layout] + (suffix if suffix in PACKED and layout != "parquet" else ""), []


def _list_lines(cut: FilesCut) -> dict[str, dict[str, list[int]]]:
    """The lines of the rows that do not train, by file and split; all others train."""
    listed: dict[str, dict[str, list[int]]] = {str(file.path): {} for file in cut.dataset.files}
    for (number, line), place in zip(cut.lines, cut.places, strict=True):
        if place != "train":
            listed[str(cut.dataset.files[number].path)].setdefault(place, []).append(line)
    return listed


def find_earlier(folder: Path) -> list[Path]:
    """The files in a folder that a split would replace, or that an earlier one has left there."""
    endings = {f"{ending}{packed}" for ending in WRITABLE.values() for packed in ("", *PACKED)}
    names = {SPLIT_RECORD, *(f"{split}{ending}" for split in SPLITS for ending in endings)}
    return sorted(path for path in folder.iterdir() if path.name in names) if folder.is_dir() else []
