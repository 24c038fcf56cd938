"""Some rows of one file through every check that looks at single rows; what is left of them is small and merges.

Runs in the main process, or in worker processes for large files.
"""

import gc
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from kivnun.data.checks.empty import check_empty_prompts
from kivnun.data.checks.hosted import SERVICES, check_hosted_rows
from kivnun.data.checks.labels import LabelCounts, count_labels
from kivnun.data.checks.row import check_row
from kivnun.data.checks.statistics import Statistics
from kivnun.data.checks.tally import Tally
from kivnun.data.checks.whole import Evidence
from kivnun.data.conversation import Conversation
from kivnun.data.duplicates.fingerprint import Fingerprints, fingerprint
from kivnun.data.files.read import LineBlock, rows_of_block
from kivnun.data.findings import Finding, RowError
from kivnun.data.formats import FORMATS, detect_format
from kivnun.data.formats.base import Format
from kivnun.data.rows import Row


class TokenChecks(Protocol):
    """The checks that need a model's tokenizer; they keep their own figures, so that they run in one process only."""

    def check(
        self, conversations: Sequence[Conversation], lines: Sequence[int], file: str, split: str
    ) -> Sequence[Finding]:
        """What is wrong with some rows of a file."""
        ...

    def judge(self, name: str) -> Iterable[Finding]:
        """What all rows together show."""
        ...

    def summary(self, split: str) -> dict[str, object]:
        """The figures of a split as plain values."""
        ...


@dataclass(frozen=True)
class FormatWish:
    """How the rows of a file are read: the same in every process.

    Attributes:
        sample: The first rows, by which the format is detected; none where it could not be.
        wanted: The format that the user named.
        prompt: The column of prompts that the user named.
        answer: The column of answers that the user named.
    """

    sample: tuple[Row, ...]
    wanted: str | None = None
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class RowPlan:
    """What is done with the rows of a file.

    Attributes:
        file: The file, as messages name it.
        number: Its number among the files.
        split: What its rows are for.
        wish: How its rows are read.
        service: The hosted service whose limits count.
        near: Whether near duplicates are looked for.
        tokens: The checks that need a tokenizer, where a model is named.
    """

    file: str
    number: int
    split: str
    wish: FormatWish
    service: str | None = None
    near: bool = False
    tokens: TokenChecks | None = None


@dataclass(slots=True)
class Measured:
    """What is known of the rows of a split.

    Attributes:
        statistics: Figures for people.
        evidence: What counts only together with the other rows.
        labels: Answers that may be labels.
    """

    statistics: Statistics = field(default_factory=Statistics)
    evidence: Evidence = field(default_factory=Evidence)
    labels: LabelCounts = field(default_factory=LabelCounts)

    def merge(self, later: "Measured") -> None:
        """Take in what stands behind these rows."""
        self.statistics.merge(later.statistics)
        self.evidence.merge(later.evidence)
        self.labels = self.labels.merge(later.labels)


@dataclass(frozen=True)
class BlockResult:
    """What is left of a block of rows.

    Attributes:
        num_rows: How many rows were read, whether they are well formed or not.
        tally: What was found.
        measured: What is known of the well-formed rows.
        prints: Their fingerprints; None where there are none.
    """

    num_rows: int
    tally: Tally
    measured: Measured
    prints: Fingerprints | None = None


def check_block(task: tuple[LineBlock, RowPlan]) -> BlockResult:
    """Check the rows of a block of lines; this is what worker processes do."""
    block, plan = task
    return check_rows(rows_of_block(block), plan)


def check_rows(rows: Iterable[Row | Finding], plan: RowPlan) -> BlockResult:
    """Check rows as a reader gives them, with what the reader found."""
    with _without_sweeps():
        return _check_rows(rows, plan)


def _check_rows(rows: Iterable[Row | Finding], plan: RowPlan) -> BlockResult:
    found: list[Finding] = []
    good: list[Row] = []
    conversations: list[Conversation] = []
    num_rows = 0
    read_format = open_format(plan.wish) if plan.wish.sample else None
    for row in rows:
        if isinstance(row, Finding):
            found.append(row)
            continue
        num_rows += 1
        if read_format is None:
            continue
        try:
            conversations.append(read_format.read(row))
        except RowError as error:
            found += _explain(error, row, read_format, plan.wish.sample)
        else:
            good.append(row)
    name = read_format.name if read_format is not None else ""
    checked = check_conversation_rows(conversations, good, plan, format_name=name)
    tally = Tally()
    tally.add(found)
    tally.merge(checked.tally)
    return BlockResult(num_rows, tally, checked.measured, checked.prints)


def check_conversation_rows(
    conversations: Sequence[Conversation], rows: Sequence[Row], plan: RowPlan, *, format_name: str
) -> BlockResult:
    """Check conversations, and the rows that they were read from."""
    tally, measured = Tally(), Measured()
    prints: Fingerprints | None = None
    if conversations:
        lines = [row.line for row in rows]
        for conversation, row in zip(conversations, rows, strict=True):
            findings = check_row(conversation, row, format_name)
            if findings:
                tally.add(findings)
        tally.add(check_empty_prompts(conversations, lines, plan.file))
        if plan.service is not None:
            tally.add(check_hosted_rows(conversations, lines, plan.file, format_name, SERVICES[plan.service]))
        if plan.tokens is not None:
            tally.add(plan.tokens.check(conversations, lines, plan.file, plan.split))
        sizes = measured.statistics.add(conversations)
        measured.evidence.add(conversations, lines, plan.file, sizes)
        measured.labels = count_labels(conversations)
        prints = fingerprint(conversations, lines, file=plan.number, near=plan.near)
    return BlockResult(len(rows), tally, measured, prints)


@contextmanager
def _without_sweeps() -> Generator[None]:
    """Rows hold no cycles: to search their many small objects for some again and again costs a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_format(wish: FormatWish) -> Format:
    """The format that every process reads these rows with."""
    return detect_format(wish.sample, wanted=wish.wanted, prompt=wish.prompt, answer=wish.answer).format


def _explain(error: RowError, row: Row, read_format: Format, sample: Sequence[Row]) -> Sequence[Finding]:
    """What is wrong with a row: that it is of another format than the rows before it, or what its format says."""
    if read_format.recognise(row.fields) is None and not _has_usual_keys(row, sample):
        for other in FORMATS.values():
            why = other.recognise(row.fields)
            if why is not None:
                words = f"this row looks like {other.name} ({why}), the rows before it like {read_format.name}"
                return [Finding("format-mixed", row.file, row.line, words)]
    return error.findings


def _has_usual_keys(row: Row, sample: Sequence[Row]) -> bool:
    """Whether a row has at least half of the keys of the usual row: then it is one of these, with a fault."""
    counts = Counter(key for each in sample for key in each.fields)
    usual = {key for key, count in counts.items() if 2 * count > len(sample)}
    return 2 * len(usual & row.fields.keys()) >= len(usual)
