"""One pass over all rows: the same report with workers and without, from files and from conversations."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from broken import GOOD, LONG, TEST, TRAIN, chat, jsonl, labelled, many, talk

from kivnun.data.checks import stream
from kivnun.data.checks.block import BlockResult, RowPlan
from kivnun.data.checks.report import CheckReport
from kivnun.data.checks.stream import (
    BATCH_ROWS,
    LARGE_FILE_BYTES,
    SAMPLE_ITEMS,
    CheckOptions,
    check_conversations,
    check_data,
)
from kivnun.data.conversation import Conversation, Message
from kivnun.data.files.find import find_data
from kivnun.data.findings import Finding
from kivnun.data.formats import FORMATS
from kivnun.data.rows import Row
from kivnun.errors import UserError


def check(name: str, **options: object) -> CheckReport:
    return check_data(find_data(name), CheckOptions(**options))


def counts(report: CheckReport) -> dict[str, int]:
    return {found.code: found.count for found in report.found}


def places(report: CheckReport, code: str) -> list[str]:
    return [finding.where for found in report.found if found.code == code for finding in found.examples]


def large_file(path: Path, *, bad_every: int = 501) -> int:
    """More than `LARGE_FILE_BYTES` of rows, with faults of several kinds strewn in; the number of lines."""
    draw = random.Random(7)  # noqa: S311
    lines: list[bytes] = []
    size = number = 0
    while size < LARGE_FILE_BYTES + 300_000:
        number += 1
        row = chat(f"שאלה {number}: {draw.random()} {LONG}?", f"Answer {draw.random()}.")
        line = jsonl(row)
        if number % bad_every == 0:
            kinds = (b"{broken\n", b"\n", lines[0], jsonl(talk(("user", "Hi"))), jsonl({"messages": 7}))
            line = kinds[number // bad_every % len(kinds)]
        lines.append(line)
        size += len(line)
    path.write_bytes(b"".join(lines))
    return number


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("large") / "rows.jsonl"
    return path, large_file(path)


def test_workers_find_what_one_process_finds_and_in_the_same_order(large: tuple[Path, int]) -> None:
    path, _ = large
    alone, together = (check(str(path), near="off", num_workers=number) for number in (1, 3))
    assert replace(alone, seconds=0) == replace(together, seconds=0)
    found = counts(alone)
    assert {"json-syntax", "line-blank", "duplicate-exact", "order-no-assistant", "field-type"} <= set(found)
    assert places(alone, "json-syntax")[0] == f"{path}:{501 * 5}"
    assert alone.num_rows == sum(
        line not in (b"\n", b"{broken\n") for line in path.read_bytes().splitlines(keepends=True)
    )


def test_workers_look_for_near_duplicates_too(large: tuple[Path, int], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    near = [chat(f"{LONG} {LONG[::-1]} {word}", "Yes.") for word in ("a", "b")]
    path.write_bytes(jsonl(near[0]) + large[0].read_bytes() + jsonl(near[1]))
    report = check(str(path), num_workers=2, near="on")
    assert f"{path}:{large[1] + 2}" in places(report, "duplicate-near")


@pytest.mark.parametrize("rows", [BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 1])
def test_no_row_is_lost_between_batches(rows: int, here: Path) -> None:
    (here / "rows.jsonl").write_bytes(jsonl(*many(rows)))
    report = check("rows.jsonl", near="off")
    assert report.num_rows == report.files[0].num_rows == rows
    assert report.statistics["train"]["rows"] == rows


def test_progress_ends_with_all_rows_and_never_beyond_all_bytes(here: Path) -> None:
    for name in (TRAIN, TEST):
        (here / name).write_bytes(jsonl(*many(BATCH_ROWS + 5)))
    shown: list[tuple[int, float]] = []
    check_data(find_data("."), CheckOptions(near="off"), show=lambda rows, share: shown.append((rows, share)))
    assert shown[-1][0] == 2 * (BATCH_ROWS + 5)
    assert [share for _, share in shown] == sorted(share for _, share in shown)
    assert 0.9 < shown[-1][1] <= 1


def test_training_rows_are_read_first_whatever_the_files_are_called(here: Path) -> None:
    (here / "a_test.jsonl").write_bytes(jsonl(*many(3)))
    (here / "b_train.jsonl").write_bytes(jsonl(*many(30)))
    report = check(".")
    assert [file.split for file in report.files] == ["train", "test"]
    assert list(report.statistics) == ["train", "test"]
    assert counts(report)["leak-exact"] == 3


def test_a_row_of_another_format_is_mixed_and_one_with_a_fault_is_not(here: Path) -> None:
    shapes = [{"instruction": "Say hello", "output": "Hello"}, {"messages": "hello"}, {"conversations": []}]
    (here / "rows.jsonl").write_bytes(jsonl(*GOOD, *GOOD, *shapes))
    report = check("rows.jsonl")
    assert places(report, "format-mixed") == ["rows.jsonl:5", "rows.jsonl:7"]
    assert places(report, "field-type") == ["rows.jsonl:6"]


def test_a_file_of_no_known_format_is_still_counted_and_the_others_are_checked(here: Path) -> None:
    (here / "a.jsonl").write_bytes(jsonl({"aa": 1}, {"aa": 2}) + b"{\n")
    (here / "b.jsonl").write_bytes(jsonl(*GOOD, talk(("user", "Hi"))))
    report = check(".")
    assert [(file.num_rows, file.format) for file in report.files] == [(2, ""), (3, "openai-chat")]
    assert places(report, "json-syntax")
    assert places(report, "order-no-assistant")
    assert [each.why for each in report.not_run if each.what == "rows"] == ["no known format: a.jsonl"]


def test_named_columns_and_formats_are_taken_and_wrong_ones_refused(here: Path) -> None:
    (here / "rows.csv").write_text("aa,bb\nhello,x\nbye,y\n")
    assert check("rows.csv", prompt="aa", answer="bb").files[0].format == "columns"
    for options in ({"wanted": "alpacca"}, {"prompt": "aa", "answer": "cc"}, {"prompt": "aa"}):
        with pytest.raises(UserError):
            check("rows.csv", **options)


def test_hosted_rules_count_only_where_a_service_is_named(here: Path) -> None:
    (here / "rows.jsonl").write_bytes(jsonl(*GOOD, chat("Hi there", "Hello", source="web")))
    assert "hosted-field" not in counts(check("rows.jsonl"))
    assert places(check("rows.jsonl", service="openai"), "hosted-field") == ["rows.jsonl:3"]


def test_what_did_not_run_is_said_with_the_reason(here: Path) -> None:
    (here / "rows.jsonl").write_bytes(jsonl(*GOOD))
    report = check("rows.jsonl", near="off")
    assert "duplicate-not-searched" not in counts(report)
    said = {each.what.partition(":")[0]: each.why for each in report.not_run}
    assert said == {
        "tokens": "no --model was given",
        "near duplicates": "--near off",
        "limits of hosted services": "no --for was given",
        "leaks between splits": "all rows are train rows",
    }


def test_near_duplicates_are_given_up_where_there_are_too_many_rows(here: Path) -> None:
    near = [chat(f"{LONG} {word}", "Yes.") for word in ("a", "b")]
    (here / "rows.jsonl").write_bytes(jsonl(*near, *many(BATCH_ROWS + 100)))
    limit = BATCH_ROWS + 102
    for found_at, not_found_at in ((limit, limit - 1), (limit, 10)):
        report = check("rows.jsonl", max_near_rows=not_found_at)
        assert "duplicate-not-searched" in counts(report)
        assert "duplicate-near" not in counts(report)
        assert "duplicate-near" in counts(check("rows.jsonl", max_near_rows=found_at))
        assert "duplicate-near" in counts(check("rows.jsonl", max_near_rows=not_found_at, near="on"))


def read_all(rows: Sequence[dict[str, object]], file: str) -> list[Conversation]:
    read = FORMATS["openai-chat"].read
    return [read(Row(row, file, line)) for line, row in enumerate(rows, start=1)]


def test_conversations_give_the_findings_of_their_files(here: Path) -> None:
    rows = {"train": [*many(12), talk(("user", "Hi")), many(12)[3]], "test": many(2)}
    for split, part in rows.items():
        (here / f"{split}.jsonl").write_bytes(jsonl(*part))
    from_files = check(".")
    splits = {split: read_all(part, f"{split}.jsonl") for split, part in rows.items()}
    given = check_conversations(splits, CheckOptions(), name=".", format_name="openai-chat")
    expected = [found for found in from_files.found if found.code != "format-detected"]
    assert list(given.found) == expected
    assert given.statistics == from_files.statistics


def test_conversations_of_one_file_in_two_splits_keep_their_lines() -> None:
    rows = read_all([*many(6)], "rows.jsonl")
    splits = {"train": [rows[4], rows[0], rows[2]], "validation": [], "test": [rows[3], rows[4]]}
    report = check_conversations(splits, CheckOptions(), name="data")
    assert places(report, "leak-exact") == ["rows.jsonl:5"]
    assert [(file.split, file.num_rows) for file in report.files] == [("train", 3), ("test", 2)]


def test_a_conversation_without_a_line_is_a_place_too() -> None:
    turns = (Message("user", "Hi", trained=False), Message("assistant", " ", trained=True))
    report = check_conversations({"train": [Conversation(turns, {}, "memory")]}, CheckOptions(), name="data")
    assert places(report, "answer-empty") == ["memory"]


def test_labels_and_their_bars_are_part_of_the_figures(here: Path) -> None:
    (here / "rows.jsonl").write_bytes(jsonl(*labelled({"כן": 15, "לא": 12})))
    figures = json.loads(json.dumps(check("rows.jsonl").to_json()))["statistics"]["train"]
    assert figures["labels"] == {"כן": 15, "לא": 12}
    assert sum(count for _, _, count in figures["bars"]["rows"]) == 27


def test_no_rows_at_all_are_a_report_with_an_error(here: Path) -> None:
    (here / "rows.jsonl").write_bytes(b"\n\n")
    report = check("rows.jsonl")
    assert counts(report)["file-empty"] == 1
    assert report.exit_status() == 2


def test_a_picture_without_words_is_no_empty_prompt(here: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/cat.png"}}
    rows = [talk(("user", [picture]), ("assistant", "A cat")), talk(("user", ""), ("assistant", "A dog"))]
    (here / "rows.jsonl").write_bytes(jsonl(*rows))
    assert places(check("rows.jsonl"), "field-empty") == ["rows.jsonl:2"]


def test_a_file_of_bad_lines_is_read_on_without_keeping_what_is_wrong_with_each(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "rows.jsonl").write_bytes(b'["a"]\n' * 3 * SAMPLE_ITEMS + jsonl(*GOOD))
    sizes: list[int] = []
    check_all = stream.check_rows

    def weigh(rows: list[Row | Finding], plan: RowPlan) -> BlockResult:
        sizes.append(len(rows))
        return check_all(rows, plan)

    monkeypatch.setattr(stream, "check_rows", weigh)
    report = check("rows.jsonl", near="off")
    assert counts(report)["json-not-object"] == 3 * SAMPLE_ITEMS
    assert report.num_rows == 2
    assert sum(sizes) == 3 * SAMPLE_ITEMS + 2
    assert max(sizes) == BATCH_ROWS
    assert [each.why for each in report.not_run if each.what == "rows"] == ["no known format: rows.jsonl"]


def test_a_large_file_that_begins_with_bad_lines_only_is_read_in_blocks_too(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, blank = b'["a"]\n' * 2 * SAMPLE_ITEMS, b"\n" * 2 * SAMPLE_ITEMS
    (here / "rows.jsonl").write_bytes(bad)
    (here / "none.jsonl").write_bytes(blank)
    in_lines = [counts(check(name, near="off")) for name in ("rows.jsonl", "none.jsonl")]
    assert in_lines[1]["file-empty"] == 1
    monkeypatch.setattr(stream, "LARGE_FILE_BYTES", 1000)
    assert [counts(check(name, near="off")) for name in ("rows.jsonl", "none.jsonl")] == in_lines
    monkeypatch.delattr(stream, "check_rows")
    assert counts(check("rows.jsonl", near="off", num_workers=1)) == in_lines[0]


def test_good_rows_behind_many_bad_lines_are_checked_too(here: Path) -> None:
    (here / "rows.jsonl").write_bytes(b'["a"]\n' * 2 * BATCH_ROWS + jsonl(*GOOD, talk(("user", "Hi"))))
    report = check("rows.jsonl", near="off")
    assert report.files[0].format == "openai-chat"
    assert places(report, "order-no-assistant") == [f"rows.jsonl:{2 * BATCH_ROWS + 3}"]


def test_many_files_are_told_apart_in_one_pass() -> None:
    class Rows(list[Conversation]):
        """Rows that count how often one of them is taken."""

        taken = 0

        def __iter__(self) -> Iterator[Conversation]:
            for each in super().__iter__():
                self.taken += 1
                yield each

    texts = "אבגד"
    rows = Rows(
        Conversation((Message("assistant", f"{texts} {number}", trained=True),), {}, f"{number}.txt:1")
        for number in range(500)
    )
    report = check_conversations({"train": rows}, CheckOptions(near="off"), name="data")
    assert [(file.path, file.num_rows) for file in report.files] == [(f"{number}.txt", 1) for number in range(500)]
    assert rows.taken <= 10 * len(rows)
