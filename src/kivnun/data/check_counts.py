"""What a run keeps of its data checks: counts by code, and these in words."""

from collections.abc import Mapping
from typing import cast

from kivnun.data.checks.report import CheckReport
from kivnun.data.findings import SEVERITIES

MAX_CODES_SAID = 8


def count_checks(report: CheckReport) -> dict[str, object]:
    """Counts by severity and code, and those that were accepted, as JSON values."""
    by_severity = {
        f"{severity}s": {found.code: found.count for found in report.found if found.severity == severity}
        for severity in SEVERITIES
    }
    return {"num_rows": report.num_rows, **by_severity, "ignored": {each.code: each.count for each in report.ignored}}


def say_checks(checks: Mapping[str, object]) -> list[str]:
    """Warnings and accepted findings in one line each; nothing where there are none."""
    lines: list[str] = []
    for kind, what in (("warnings", "warning(s)"), ("ignored", "finding(s) accepted by data.ignore_checks")):
        counts = cast("Mapping[str, int]", checks.get(kind) or {})
        if counts:
            said = [f"{code} {count:,}" for code, count in list(counts.items())[:MAX_CODES_SAID]]
            more = [f"{len(counts) - len(said)} more"] if len(counts) > len(said) else []
            lines.append(f"{sum(counts.values()):,} {what}: {', '.join([*said, *more])}")
    return lines
