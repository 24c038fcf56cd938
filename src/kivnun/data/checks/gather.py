"""From what is left of every block to a report: the checks over all rows, and what did not run."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kivnun.data.checks.block import BlockResult, Measured, TokenChecks
from kivnun.data.checks.hosted import SERVICES, check_hosted_files
from kivnun.data.checks.labels import check_labels
from kivnun.data.checks.prints import PrintStack
from kivnun.data.checks.repeats import check_repeats
from kivnun.data.checks.report import CheckedFile, CheckReport, NotRun, list_found, split_ignored
from kivnun.data.checks.tally import Tally
from kivnun.data.checks.whole import check_whole, count_unshown
from kivnun.data.findings import CHECKS, Finding

SPLITS = ("train", "validation", "test")
MAX_NEAR_ROWS = 1_000_000


@dataclass(slots=True)
class Gathered:
    """What is known of all rows so far.

    Attributes:
        near: Whether near duplicates are still looked for.
        tally: What was found.
        splits: What is known of the rows, by split.
        prints: Fingerprints of the rows, by split.
        files: The files that were read.
        num_rows: How many rows they hold.
    """

    near: bool
    tally: Tally = field(default_factory=Tally)
    splits: dict[str, Measured] = field(default_factory=dict[str, Measured])
    prints: dict[str, PrintStack] = field(default_factory=dict[str, PrintStack])
    files: list[CheckedFile] = field(default_factory=list[CheckedFile])
    num_rows: int = 0

    def add(self, result: BlockResult, split: str) -> None:
        """Take in the next block of a split."""
        self.num_rows += result.num_rows
        self.tally.merge(result.tally)
        self.splits.setdefault(split, Measured()).merge(result.measured)
        if result.prints is not None:
            self.prints.setdefault(split, PrintStack()).add(result.prints)

    def give_up_near(self) -> None:
        """Look for near duplicates no longer, and free what was kept for it."""
        self.near = False
        for stack in self.prints.values():
            stack.drop_signatures()


@dataclass(frozen=True)
class Scope:
    """What was asked for, as far as the report needs it.

    Attributes:
        service: The hosted service whose limits count.
        near: Whether near duplicates were asked for: auto, on or off.
        max_near_rows: In how many rows `auto` looks for them.
        ignore: Codes that do not count.
        tokens: The checks that need a tokenizer, where a model was named.
    """

    service: str | None = None
    near: str = "auto"
    max_near_rows: int = MAX_NEAR_ROWS
    ignore: frozenset[str] = frozenset()
    tokens: TokenChecks | None = None


def conclude(gathered: Gathered, scope: Scope, *, name: str) -> CheckReport:
    """Run the checks over all rows, and say everything that is known."""
    splits = {split: gathered.splits[split] for split in SPLITS if split in gathered.splits}
    tally = gathered.tally
    tally.add(_check_all(splits, gathered, scope))
    if scope.tokens is not None:
        tally.add(scope.tokens.judge(name))
    evidence = {split: measured.evidence for split, measured in splits.items()}
    for code, count in count_unshown(evidence, tally.counts).items():
        tally.add_unshown(code, count)
    if scope.near == "auto" and not gathered.near and gathered.num_rows > scope.max_near_rows:
        words = f"{gathered.num_rows:,} rows; `auto` looks at up to {scope.max_near_rows:,}"
        tally.add([Finding("duplicate-not-searched", gathered.files[0].path, 0, words)])
    found, ignored = split_ignored(list_found(_without_hosted(tally, scope)), scope.ignore)
    return CheckReport(
        name=name,
        files=tuple(gathered.files),
        found=found,
        ignored=ignored,
        not_run=tuple(_list_not_run(splits, gathered, scope)),
        statistics={split: _summarise(split, measured, scope) for split, measured in splits.items()},
        num_rows=gathered.num_rows,
    )


def _check_all(splits: Mapping[str, Measured], gathered: Gathered, scope: Scope) -> Iterator[Finding]:
    files = gathered.files
    measured = {split: each for split, each in splits.items() if split in gathered.prints}
    labels = {split: each.labels for split, each in measured.items()}
    yield from check_labels(labels)
    yield from check_whole(
        {split: each.evidence for split, each in measured.items()},
        {split: each.statistics for split, each in measured.items()},
        {split: next(file.path for file in files if file.split == split) for split in measured},
        are_documents=all(file.format == "text" for file in files),
        are_labels=any(each.is_classification for each in labels.values()),
    )
    taken = {split: gathered.prints[split].take() for split in measured}
    prints = {split: each for split, each in taken.items() if each is not None}
    yield from check_repeats(prints, [file.path for file in files])
    if scope.service is not None:
        yield from check_hosted_files(files, SERVICES[scope.service])


def _without_hosted(tally: Tally, scope: Scope) -> Tally:
    """Rules of hosted services count only for those who asked for the service that has them."""
    dropped = {code for code in tally.counts if CHECKS[code].group == "hosted"}
    if scope.service is not None:
        dropped = set[str]() if SERVICES[scope.service].limits_pictures else {"hosted-images"}
    kept = {code: count for code, count in tally.counts.items() if code not in dropped}
    return Tally(Counter(kept), {code: tally.examples[code] for code in kept})


def _list_not_run(splits: Mapping[str, Measured], gathered: Gathered, scope: Scope) -> Iterator[NotRun]:
    if scope.tokens is None:
        yield NotRun(
            "tokens: lengths, answers that would be cut, control tokens, chat template", "no --model was given"
        )
    if not gathered.near:
        why = "--near off" if scope.near == "off" else f"more than {scope.max_near_rows:,} rows; say --near on"
        yield NotRun("near duplicates", why)
    if scope.service is None:
        yield NotRun("limits of hosted services", "no --for was given")
    if len(splits) == 1:
        yield NotRun("leaks between splits", f"all rows are {next(iter(splits))} rows")
    unknown = [file.path for file in gathered.files if not file.format]
    if unknown:
        yield NotRun("rows", f"no known format: {', '.join(unknown)}")


def _summarise(split: str, measured: Measured, scope: Scope) -> dict[str, object]:
    statistics = measured.statistics
    bars = {"rows": statistics.rows.bars(), "answers": statistics.answers.bars()}
    figures: dict[str, object] = {**statistics.summary(), "bars": bars}
    if measured.labels.is_classification:
        figures["labels"] = {label: count.rows for label, count in measured.labels.labels.items()}
    return figures if scope.tokens is None else {**figures, "tokens": scope.tokens.summary(split)}
