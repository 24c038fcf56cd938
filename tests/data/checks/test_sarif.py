"""Findings as SARIF: what readers of 2.1.0 ask for, stable rules, and places that editors can open."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

from kivnun.data.checks.report import CheckReport, NotRun, list_found
from kivnun.data.checks.sarif import make_sarif
from kivnun.data.checks.tally import Tally
from kivnun.data.findings import CHECKS, Finding


def make(root: Path, *findings: Finding, ignored: tuple[Finding, ...] = ()) -> dict:
    parts = []
    for group in (findings, ignored):
        tally = Tally()
        tally.add(group)
        parts.append(list_found(tally))
    report = CheckReport("data", (), parts[0], parts[1], (NotRun("tokens", "no model"),))
    log = json.loads(json.dumps(make_sarif(report, root=root)))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    return run


def test_every_check_is_a_rule_in_its_place(tmp_path: Path) -> None:
    rules = make(tmp_path)["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CHECKS)
    assert {rule["defaultConfiguration"]["level"] for rule in rules} == {"error", "warning", "note"}
    assert len({rule["name"] for rule in rules}) == len(rules)


def test_results_name_their_rule_level_message_and_line(tmp_path: Path) -> None:
    run = make(tmp_path, Finding("json-syntax", "data/שורות 1.jsonl", 7, "no JSON"))
    (result,) = run["results"]
    assert (result["ruleId"], result["level"], result["message"]["text"]) == ("json-syntax", "error", "no JSON")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "json-syntax"
    place = result["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 7}
    assert unquote(place["artifactLocation"]["uri"]) == "data/שורות 1.jsonl"
    assert place["artifactLocation"]["uri"].isascii()
    assert " " not in place["artifactLocation"]["uri"]


def test_a_relative_place_and_its_base_lead_to_the_file(tmp_path: Path) -> None:
    run = make(tmp_path, Finding("json-syntax", str(tmp_path / "a.jsonl"), 7, "no JSON"))
    location = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    base = run["originalUriBaseIds"][location["uriBaseId"]]["uri"]
    assert base.endswith("/")
    assert unquote(urlparse(base + location["uri"]).path) == str(tmp_path.resolve() / "a.jsonl")


def test_a_file_outside_has_its_whole_address_and_a_whole_file_has_no_region(tmp_path: Path) -> None:
    run = make(tmp_path / "here", Finding("file-empty", str(tmp_path / "a.jsonl"), 0, "no rows"))
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": (tmp_path / "a.jsonl").resolve().as_uri()}}


def test_what_is_ignored_is_suppressed_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    many = [Finding("text-nul", "a.jsonl", line, "NUL") for line in range(1, 31)]
    run = make(tmp_path, *many, ignored=(Finding("rows-few", "a.jsonl", 0, "3 rows"),))
    assert [bool(result.get("suppressions")) for result in run["results"]] == [False] * 20 + [True]
    notes = [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert notes == ["text-nul: 10 more of 30 findings are not listed", "not run: tokens: no model"]
    assert run["invocations"][0]["exitCode"] == 2
