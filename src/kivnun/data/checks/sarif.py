"""Findings as SARIF 2.1.0, which editors and code hosts show beside the lines."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from kivnun import __version__
from kivnun.data.checks.report import CheckReport, FoundCode
from kivnun.data.findings import CHECKS, Finding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "%SRCROOT%"


def make_sarif(report: CheckReport, *, root: Path) -> dict[str, object]:
    """A report as a SARIF log.

    Every check is a rule, whether it found something or not, so that a rule's place never moves. Results are the first
    places of each code; how many there are in all stands in their rule's notification.

    Args:
        report: What was found.
        root: The folder that files are named from.
    """
    places = {code: index for index, code in enumerate(CHECKS)}
    results = [
        _result(finding, found, places[found.code], root, is_ignored=found in report.ignored)
        for found in (*report.found, *report.ignored)
        for finding in found.examples
    ]
    invocation = {
        "executionSuccessful": True,
        "exitCode": report.exit_status(),
        "toolExecutionNotifications": _notifications(report),
    }
    run = {
        "tool": {"driver": {"name": "kivnun check", "semanticVersion": __version__, "rules": _rules()}},
        "invocations": [invocation],
        "originalUriBaseIds": {ROOT: {"uri": root.resolve().as_uri() + "/"}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rules() -> list[dict[str, object]]:
    return [
        {
            "id": code,
            "name": "".join(map(str.capitalize, code.split("-"))),
            "shortDescription": {"text": check.summary},
            "help": {"text": f"{check.hint[:1].upper()}{check.hint[1:]}."},
            "defaultConfiguration": {"level": check.severity},
            "properties": {"group": check.group},
        }
        for code, check in CHECKS.items()
    ]


def _result(finding: Finding, found: FoundCode, rule: int, root: Path, *, is_ignored: bool) -> dict[str, object]:
    place: dict[str, object] = {"artifactLocation": _location(finding.file, root)}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    result: dict[str, object] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": found.severity,
        "message": {"text": finding.message or found.summary},
        "locations": [{"physicalLocation": place}],
    }
    if is_ignored:
        result["suppressions"] = [{"kind": "external", "justification": "--ignore"}]
    return result


def _location(file: str, root: Path) -> Mapping[str, str]:
    """A file below the root by its relative URI, any other by its whole one."""
    path = (root / file).resolve()
    if path.is_relative_to(root.resolve()):
        return {"uri": quote(bytes(path.relative_to(root.resolve()))), "uriBaseId": ROOT}
    return {"uri": path.as_uri()}


def _notifications(report: CheckReport) -> list[dict[str, object]]:
    """What is no result of its own: places that are left out, and checks that did not run."""
    hidden = [
        f"{found.code}: {found.num_hidden:,} more of {found.count:,} findings are not listed"
        for found in (*report.found, *report.ignored)
        if found.num_hidden
    ]
    skipped = [f"not run: {each.what}: {each.why}" for each in report.not_run]
    return [{"level": "note", "message": {"text": text}} for text in (*hidden, *skipped)]
