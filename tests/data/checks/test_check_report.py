"""The report as values: what counts, what it ends with, and that it survives JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.checks.report import CheckReport, NotRun, ignore_codes, list_found, split_ignored
from kivnun.data.checks.tally import Tally
from kivnun.data.findings import CHECKS, SEVERITIES, Finding

CODES = st.lists(st.sampled_from(sorted(CHECKS)), max_size=40)


def tally(*codes: str) -> Tally:
    counted = Tally()
    counted.add(Finding(code, "נתונים.jsonl", line, "what it is") for line, code in enumerate(codes, start=1))
    return counted


def report(*codes: str, ignore: tuple[str, ...] = ()) -> CheckReport:
    found, ignored = split_ignored(list_found(tally(*codes)), ignore)
    return CheckReport("data", (), found, ignored, (NotRun("tokens", "no model"),), num_rows=10, seconds=0.5)


@pytest.mark.parametrize(
    ("codes", "ignore", "plain", "strict"),
    [
        ((), (), 0, 0),
        (("language-mix",), (), 0, 0),
        (("rows-few",), (), 0, 1),
        (("rows-few",), ("rows-few",), 0, 0),
        (("json-syntax", "rows-few"), (), 2, 2),
        (("json-syntax", "rows-few"), ("json-syntax",), 0, 1),
    ],
)
def test_the_exit_status_follows_what_counts(
    codes: tuple[str, ...], ignore: tuple[str, ...], plain: int, strict: int
) -> None:
    made = report(*codes, ignore=ignore)
    assert (made.exit_status(), made.exit_status(strict=True)) == (plain, strict)


@given(codes=CODES)
def test_the_worst_stands_first_and_every_finding_counts_once(codes: list[str]) -> None:
    made = report(*codes)
    severities = [SEVERITIES.index(found.severity) for found in made.found]
    assert severities == sorted(severities)
    assert {found.code: found.count for found in made.found} == {code: codes.count(code) for code in codes}
    assert sum(made.num_findings(severity) for severity in SEVERITIES) == len(codes)


@given(codes=CODES, ignore=st.sets(st.sampled_from(sorted(CHECKS))))
def test_what_is_ignored_is_still_counted_aloud_and_may_count_again(codes: list[str], ignore: set[str]) -> None:
    made = report(*codes, ignore=tuple(ignore))
    assert {found.code for found in made.ignored} == set(codes) & ignore
    assert ignore_codes(made, ()) == report(*codes)
    assert ignore_codes(report(*codes), ignore) == made


def test_only_the_first_twenty_places_are_kept() -> None:
    (found,) = report(*["text-nul"] * 33).found
    assert (found.count, len(found.examples), found.num_hidden) == (33, 20, 13)
    assert [finding.line for finding in found.examples] == list(range(1, 21))


def test_json_has_everything() -> None:
    value = json.loads(json.dumps(report("json-syntax", "rows-few", ignore=("rows-few",)).to_json()))
    assert (value["num_errors"], value["num_warnings"], value["rows_per_second"]) == (1, 0, 20)
    assert value["found"][0]["examples"] == [
        {"code": "json-syntax", "file": "נתונים.jsonl", "line": 1, "message": "what it is"}
    ]
    assert value["found"][0]["hint"] == CHECKS["json-syntax"].hint
    assert value["ignored"][0]["code"] == "rows-few"
    assert value["not_run"] == [{"what": "tokens", "why": "no model"}]
