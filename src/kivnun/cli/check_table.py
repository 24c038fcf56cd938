"""A check's report on a terminal, or plain where it is piped."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kivnun.data.findings import SEVERITIES
from kivnun.data.visible import isolate

if TYPE_CHECKING:
    from kivnun.data.checks.report import CheckReport, FoundCode

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
MAX_FILES = 12


def print_report(report: "CheckReport") -> None:
    """Files, findings by severity, hints, what was not checked, and one line that sums up."""
    console = Console(highlight=False, soft_wrap=True)
    for line in say_files(report):
        console.print(line, markup=False)
    if console.is_terminal:
        console.print(_make_table(report.found), soft_wrap=False)
        hints = {found.code: found.hint for found in report.found if found.severity != "note"}
        for code, hint in hints.items():
            console.print(Text.assemble(("hint ", "bold"), (f"{code}: ", "dim"), hint))
    else:
        for found in report.found:
            console.print(say_found(found), markup=False)
    for line in say_rest(report):
        console.print(line, markup=False)


def say_files(report: "CheckReport") -> list[str]:
    """One line for each file: what it was taken for."""
    lines = [
        f"{isolate(file.path)}: {file.layout or 'rows'}, {file.format or 'no known format'}, {file.split}, "
        f"{file.num_rows:,} rows"
        for file in report.files[:MAX_FILES]
    ]
    more = len(report.files) - MAX_FILES
    return [*lines, *([f"... and {more} more files"] if more > 0 else [])]


def say_found(found: "FoundCode") -> str:
    """A code in plain lines: how often, what it means, its first place, and what to do."""
    head = f"{found.severity:<7} {found.count:>7,}  {found.code}: {found.summary}"
    lines = [f"    {isolate(each.where)}: {isolate(each.message)}" for each in found.examples[:1]]
    hint = [f"    hint: {found.hint}"] if found.severity != "note" else []
    return "\n".join([head, *lines, *hint])


def say_rest(report: "CheckReport") -> list[str]:
    """What was ignored, what did not run, and the sum."""
    ignored = [f"ignored: {found.code}, found {found.count:,} times" for found in report.ignored]
    skipped = [f"not checked: {each.what} ({isolate(each.why)})" for each in report.not_run]
    counts = ", ".join(_count(report.num_findings(severity), severity) for severity in SEVERITIES)
    rows, files = _count(report.num_rows, "row"), _count(len({file.path for file in report.files}), "file")
    speed = f"{report.seconds:.1f} s, {report.num_rows / max(report.seconds, 1e-9):,.0f} rows/s"
    return [*ignored, *skipped, f"{counts} in {rows} of {files} ({speed})"]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _make_table(found: "tuple[FoundCode, ...]") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("what", ratio=2)
    table.add_column("first place", ratio=3)
    for each in found:
        style = STYLES[each.severity]
        place = Text()
        for finding in each.examples[:1]:
            place = Text.assemble((isolate(finding.where), "bold"), " ", isolate(finding.message))
        table.add_row(Text(f"{each.count:,}", style), Text(each.code, style), each.summary, place)
    return table
