"""Every check over a whole data set, in one pass: rows stream by, and memory does not grow with their text."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, islice
from pathlib import Path

import orjson

from kivnun.data.checks.block import (
    BlockResult,
    FormatWish,
    Measured,
    RowPlan,
    TokenChecks,
    check_block,
    check_conversation_rows,
    check_rows,
)
from kivnun.data.checks.gather import MAX_NEAR_ROWS, SPLITS, Gathered, Scope, conclude
from kivnun.data.checks.report import CheckedFile, CheckReport
from kivnun.data.checks.tally import Tally
from kivnun.data.checks.workers import Workers, count_processors
from kivnun.data.conversation import Conversation
from kivnun.data.files.dataset import DataFile, DataSet, ReadOptions
from kivnun.data.files.read import LineBlock, stream_blocks, stream_rows
from kivnun.data.findings import CHECKS, Finding
from kivnun.data.formats import FORMATS, detect_format
from kivnun.data.rows import Row
from kivnun.errors import UserError

LARGE_FILE_BYTES = 8 << 20
SAMPLE_ROWS, SAMPLE_BYTES = 100, 256 << 10
# A file may begin with many lines that are no rows.
SAMPLE_ITEMS = 10_000
# Larger blocks outgrow the processor's caches and cost a tenth more.
BLOCK_BYTES = 512 << 10
BATCH_ROWS = 2_000
# The first rows may be half as long as the later ones.
SURELY = 2

Show = Callable[[int, float], None]


def show_nothing(num_rows: int, share: float) -> None:
    """For callers who do not show how far the work is."""


@dataclass(frozen=True)
class CheckOptions:
    """What is asked for.

    Attributes:
        wanted: The format of the rows; detected where it is not given.
        prompt: Of a table, the column that is read.
        answer: Of a table, the column that is learnt.
        read: What the user says about the files.
        service: Whose limits count: one of `hosted.SERVICES`.
        near: Whether near duplicates are looked for: auto, on or off.
        max_near_rows: In how many rows `auto` looks for them.
        ignore: Codes that do not count.
        num_workers: Processes for large files, 0 for one on each processor; 1 stays in this one.
        tokens: The checks that need a tokenizer, where a model is named; they stay in this process.
    """

    wanted: str | None = None
    prompt: str | None = None
    answer: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    service: str | None = None
    near: str = "auto"
    max_near_rows: int = MAX_NEAR_ROWS
    ignore: frozenset[str] = frozenset()
    num_workers: int = 0
    tokens: TokenChecks | None = None

    @property
    def scope(self) -> Scope:
        """What the report says of it."""
        return Scope(self.service, self.near, self.max_near_rows, self.ignore, self.tokens)


def check_data(dataset: DataSet, options: CheckOptions, *, show: Show = show_nothing) -> CheckReport:
    """Check every row of every file.

    Args:
        dataset: The files.
        options: What is asked for.
        show: Is told again and again how many rows were read, and which share of the bytes.

    Raises:
        UserError: If a format was asked for that does not exist.
    """
    started = time.perf_counter()
    if options.wanted is not None and options.wanted not in FORMATS:
        detect_format([Row({}, dataset.name, 0)], wanted=options.wanted)
    gathered = Gathered(near=options.near != "off")
    gathered.tally.add(dataset.notes)
    files = sorted(dataset.files, key=lambda file: SPLITS.index(file.split))
    sizes = [_size_of(file) for file in files]
    with Workers(options.num_workers or count_processors()) as workers:
        for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
            reader = _FileReader(file, number, size, options)
            before, done = gathered.num_rows, sum(sizes[:number])
            _choose_near(gathered, options, sum(sizes), reader.row_bytes)
            for result in reader.check(gathered, workers):
                gathered.add(result, file.split)
                if gathered.near and options.near == "auto" and gathered.num_rows > options.max_near_rows:
                    gathered.give_up_near()
                part = min((gathered.num_rows - before) * reader.row_bytes, size)
                show(gathered.num_rows, (done + part) / max(1, sum(sizes)))
            _close_file(gathered, reader, gathered.num_rows - before)
    report = conclude(gathered, options.scope, name=dataset.name)
    return replace(report, seconds=time.perf_counter() - started)


def check_conversations(
    splits: Mapping[str, Sequence[Conversation]], options: CheckOptions, *, name: str, format_name: str = ""
) -> CheckReport:
    """Check conversations that were read and split already, as a run does before it trains.

    Args:
        splits: Conversations by split.
        options: What is asked for; how files are read plays no part.
        name: What the report calls the data.
        format_name: The format that they were read from, where it is known.
    """
    started = time.perf_counter()
    gathered = Gathered(near=options.near == "on" or _is_searched(options, sum(map(len, splits.values()))))
    for split, conversations in splits.items():
        rows = [_row_of(conversation) for conversation in conversations]
        by_file: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            by_file.setdefault(row.file, []).append(index)
        for file, chosen in by_file.items():
            plan = RowPlan(
                file, len(gathered.files), split, FormatWish(()), options.service, gathered.near, options.tokens
            )
            for part in _cut(chosen, BATCH_ROWS):
                pair = [conversations[index] for index in part], [rows[index] for index in part]
                gathered.add(check_conversation_rows(*pair, plan, format_name=format_name), split)
            size = Path(file).stat().st_size if Path(file).is_file() else 0
            gathered.files.append(CheckedFile(file, "", format_name, "read by the recipe", split, len(chosen), size))
    report = conclude(gathered, options.scope, name=name)
    return replace(report, seconds=time.perf_counter() - started)


class _FileReader:
    """One file: its first rows, its format, and then all of its rows in blocks."""

    def __init__(self, file: DataFile, number: int, size: int, options: CheckOptions) -> None:
        self.file, self.size, self._options = file, size, options
        rows = stream_rows(file, options.read)
        self._head = list(_take_rows(rows, SAMPLE_ROWS, SAMPLE_ITEMS))
        self._tail = rows
        first = [item for item in self._head if isinstance(item, Row)]
        ends = list(accumulate(map(_bytes_of, first)))
        self.row_bytes = ends[-1] // len(first) if first else 1
        # Every block takes the sample with it, so that all processes read its rows in one way.
        sample = tuple(row for row, end in zip(first, ends, strict=True) if end <= max(SAMPLE_BYTES, ends[0]))
        self.finding, self.format_name = _name_format(sample, str(file.path), options)
        known = sample if self.format_name else ()
        wish = FormatWish(known, options.wanted, options.prompt, options.answer)
        self._plan = RowPlan(str(file.path), number, file.split, wish, options.service, tokens=options.tokens)

    def check(self, gathered: Gathered, workers: Workers) -> Iterator[BlockResult]:
        """What is left of each block; near duplicates are looked for as long as `gathered` says so."""
        if self._is_cut():
            yield from self._check_blocks(gathered, workers)
            return
        for batch in _cut_rows(chain(self._head, self._tail), BATCH_ROWS):
            yield check_rows(batch, replace(self._plan, near=gathered.near))

    def _is_cut(self) -> bool:
        """Whether it is read in blocks, which workers may take: large, line by line, and in need of no other names."""
        file = self.file
        has_own_names = bool(file.renames or file.tags or file.value_names)
        is_large = file.layout == "jsonl" and self.size >= LARGE_FILE_BYTES
        return is_large and not has_own_names and any(map(_is_line, self._head))

    def _check_blocks(self, gathered: Gathered, workers: Workers) -> Iterator[BlockResult]:
        del self._head, self._tail
        found = Tally()

        def take_blocks() -> Iterator[tuple[LineBlock, RowPlan]]:
            for item in stream_blocks(self.file, self._options.read, block_bytes=BLOCK_BYTES):
                if isinstance(item, Finding):
                    found.add([item])
                else:
                    yield item, replace(self._plan, near=gathered.near)

        are_used = workers.count > 1 and self._options.tokens is None
        yield from workers.map(check_block, take_blocks()) if are_used else map(check_block, take_blocks())
        yield BlockResult(0, found, Measured())


def _name_format(sample: Sequence[Row], file: str, options: CheckOptions) -> tuple[Finding | None, str]:
    """What the rows were taken for, as a finding; the name is empty where they look like nothing."""
    if not sample:
        return None, ""
    try:
        detection = detect_format(sample, wanted=options.wanted, prompt=options.prompt, answer=options.answer)
    except UserError as error:
        if options.prompt is not None or options.answer is not None:
            raise
        words = "; ".join((error.problem, *error.details))
        return Finding("format-unknown", file, sample[0].line, words), ""
    name = detection.format.name
    return Finding("format-detected", file, 0, f"{name}: {detection.why}"), name


def _close_file(gathered: Gathered, reader: _FileReader, num_rows: int) -> None:
    file, path = reader.file, str(reader.file.path)
    if reader.finding is not None:
        gathered.tally.add([reader.finding])
    gathered.files.append(
        CheckedFile(path, file.layout, reader.format_name, file.why, file.split, num_rows, reader.size)
    )


def _choose_near(gathered: Gathered, options: CheckOptions, all_bytes: int, row_bytes: int) -> None:
    """Do not begin with signatures that would surely be thrown away; the first rows tell how many there will be."""
    if gathered.near and not gathered.num_rows and not _is_searched(options, all_bytes // (SURELY * row_bytes)):
        gathered.give_up_near()


def _is_searched(options: CheckOptions, num_rows: int) -> bool:
    return options.near == "on" or (options.near == "auto" and num_rows <= options.max_near_rows)


def _take_rows(rows: Iterator[Row | Finding], number: int, num_items: int) -> Iterator[Row | Finding]:
    """The next rows, with the findings between them, which may be many: no more than so many items in all."""
    for item in islice(rows, num_items):
        yield item
        number -= isinstance(item, Row)
        if not number:
            return


def _is_line(item: Row | Finding) -> bool:
    """Whether it is a row, or was meant to be one: a file of notes only is empty, which its blocks do not tell."""
    return isinstance(item, Row) or (item.line > 0 and CHECKS[item.code].severity != "note")


def _cut_rows(rows: Iterable[Row | Finding], number: int) -> Iterator[list[Row | Finding]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, number)):
        yield batch


def _cut(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _bytes_of(row: Row) -> int:
    return len(orjson.dumps(row.fields, default=str)) + 1


def _row_of(conversation: Conversation) -> Row:
    file, _, line = conversation.where.rpartition(":")
    return (
        Row(conversation.fields, file, int(line)) if line.isdigit() else Row(conversation.fields, conversation.where, 0)
    )


def _size_of(file: DataFile) -> int:
    paths = file.columns.values() or (file.path,)
    return sum(path.stat().st_size for path in paths if path.is_file())
