"""What `kivnun check` found, as plain values: the terminal, JSON, SARIF and the page all show this."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from kivnun.data.checks.tally import Tally
from kivnun.data.findings import CHECKS, SEVERITIES, Finding, Severity

EXIT_CLEAN, EXIT_WARNINGS, EXIT_ERRORS = 0, 1, 2


@dataclass(frozen=True)
class FoundCode:
    """One check that found something.

    Attributes:
        code: One of `CHECKS`.
        severity: How bad it is.
        group: Heading under which it is reported.
        summary: What is wrong, in one sentence.
        hint: One action that mends it.
        count: How often it was found.
        examples: The first places.
    """

    code: str
    severity: Severity
    group: str
    summary: str
    hint: str
    count: int
    examples: tuple[Finding, ...]

    @property
    def num_hidden(self) -> int:
        """How many findings have no example here."""
        return self.count - len(self.examples)


@dataclass(frozen=True)
class CheckedFile:
    """One file and what it was taken for.

    Attributes:
        path: The file, as the user named it.
        layout: How its rows are stored: jsonl, csv, ...
        format: What its rows are: openai-chat, alpaca, ...; "" where that is not known.
        why: Why it was taken for this layout and split.
        split: The split that its rows belong to.
        num_rows: How many rows were read.
        size_bytes: Its size on the disk.
    """

    path: str
    layout: str
    format: str
    why: str
    split: str
    num_rows: int
    size_bytes: int


@dataclass(frozen=True)
class NotRun:
    """A check, or several, that did not run, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class CheckReport:
    """Everything that was found.

    Attributes:
        name: The data, as the user named it.
        files: The files that were read.
        found: Checks that found something, the worst first.
        ignored: Checks that found something and were told not to count.
        not_run: Checks that did not run.
        statistics: Figures by split, as plain values.
        num_rows: How many rows were read.
        seconds: How long that took.
    """

    name: str
    files: tuple[CheckedFile, ...]
    found: tuple[FoundCode, ...]
    ignored: tuple[FoundCode, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    statistics: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    num_rows: int = 0
    seconds: float = 0.0

    def num_findings(self, severity: Severity) -> int:
        """How many findings are this bad; ignored ones do not count."""
        return sum(found.count for found in self.found if found.severity == severity)

    def exit_status(self, *, strict: bool = False) -> int:
        """0, 1 where warnings count and there are some, 2 where there are errors."""
        if self.num_findings("error"):
            return EXIT_ERRORS
        return EXIT_WARNINGS if strict and self.num_findings("warning") else EXIT_CLEAN

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        counts = {f"num_{severity}s": self.num_findings(severity) for severity in SEVERITIES}
        return {**asdict(self), **counts, "rows_per_second": round(self.num_rows / max(self.seconds, 1e-9))}


def list_found(tally: Tally) -> tuple[FoundCode, ...]:
    """Codes that were found: errors, warnings, notes; within these in the order of `CHECKS`."""
    codes = sorted((code for code, count in tally.counts.items() if count), key=_rank)
    return tuple(_describe(code, tally.counts[code], tally.examples[code]) for code in codes)


def split_ignored(
    found: Sequence[FoundCode], ignore: Collection[str]
) -> tuple[tuple[FoundCode, ...], tuple[FoundCode, ...]]:
    """What counts, and what the user chose to ignore."""
    counted = tuple(each for each in found if each.code not in ignore)
    return counted, tuple(each for each in found if each.code in ignore)


def ignore_codes(report: CheckReport, ignore: Collection[str]) -> CheckReport:
    """The same report with these codes ignored, and all others counted."""
    everything = sorted((*report.found, *report.ignored), key=lambda found: _rank(found.code))
    found, ignored = split_ignored(everything, ignore)
    return replace(report, found=found, ignored=ignored)


_PLACES = {code: place for place, code in enumerate(CHECKS)}


def _rank(code: str) -> tuple[int, int]:
    return SEVERITIES.index(CHECKS[code].severity), _PLACES[code]


def _describe(code: str, count: int, examples: Sequence[Finding]) -> FoundCode:
    check = CHECKS[code]
    return FoundCode(code, check.severity, check.group, check.summary, check.hint, count, tuple(examples))
