"""`kivnun repair`: every step writes a new file and a log, and leaves the old file as it was."""

import json
import signal
from pathlib import Path

import pytest
from journey import Ended, kivnun, leftovers, start_kivnun, wait_until

DATA = Path(__file__).parents[3] / "shared" / "data"
ROWS = [
    {"prompt": "מה שלומך?", "completion": "טוב"},
    {"prompt": "Call me at 052-123-4567", "completion": "Sure"},
    {"prompt": "מה שלומך?", "completion": "טוב"},
    {"prompt": "מה, שלומך", "completion": "טוב"},
    {"prompt": "Who?", "completion": "טוב"},
]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")
    return tmp_path


def repair(desk: Path, *arguments: str | Path) -> Ended:
    return kivnun("repair", *arguments, work=desk)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_repeated_rows_go_and_what_went_is_told_and_logged(desk: Path) -> None:
    before = (desk / "rows.jsonl").read_bytes()
    ended = repair(desk, "deduplicate", "rows.jsonl", "clean.jsonl")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "dropped: duplicate          1",
        "read 5 row(s) of rows.jsonl, wrote 4 to clean.jsonl; log: clean.jsonl.log.jsonl",
    ]
    assert read(desk / "clean.jsonl") == [ROWS[0], ROWS[1], ROWS[3], ROWS[4]]
    assert read(desk / "clean.jsonl.log.jsonl") == [
        {"where": "rows.jsonl:3", "action": "dropped", "reason": "duplicate", "kept": "rows.jsonl:1"}
    ]
    assert (desk / "rows.jsonl").read_bytes() == before


def test_near_rows_and_rows_of_the_test_file_go_where_that_is_asked_for(desk: Path) -> None:
    (desk / "test.jsonl").write_text('{"prompt": "WHO", "completion": "x"}\n')
    ended = repair(desk, "deduplicate", "rows.jsonl", "clean.jsonl", "--near", "--against", "test.jsonl", "--json")
    assert json.loads(ended.out) == {
        "in": "rows.jsonl",
        "out": "clean.jsonl",
        "log": "clean.jsonl.log.jsonl",
        "dry_run": False,
        "read": 5,
        "written": 2,
        "counts": {
            "dropped: duplicate": 1,
            "dropped: duplicate but for case, points, punctuation or spaces": 1,
            "dropped: input stands in the other file": 1,
        },
        "notes": [],
    }
    assert read(desk / "clean.jsonl") == ROWS[:2]


def test_personal_data_is_masked_or_its_rows_dropped(desk: Path) -> None:
    assert repair(desk, "mask-personal-data", "rows.jsonl", "masked.jsonl").status == 0
    assert read(desk / "masked.jsonl")[1] == {"prompt": "Call me at [PHONE]", "completion": "Sure"}
    assert repair(desk, "drop-personal-data", "rows.jsonl", "dropped.jsonl", "--kind", "phone").status == 0
    assert read(desk / "dropped.jsonl") == [ROWS[0], *ROWS[2:]]
    assert "052" not in (desk / "masked.jsonl.log.jsonl").read_text() + (desk / "dropped.jsonl.log.jsonl").read_text()


def test_what_a_check_reports_in_any_column_is_gone_after_the_repair_that_it_names(desk: Path) -> None:
    (desk / "in.csv").write_text("data,label\ndana@gmail.com,yes\n054–1234567,no\nשלום,yes\n", "utf-8")
    columns = ("--prompt", "data", "--answer", "label")
    before = kivnun("check", "in.csv", *columns, work=desk).out
    assert "personal-email" in before
    assert "kivnun repair mask-personal-data" in before
    assert repair(desk, "mask-personal-data", "in.csv", "masked.csv").status == 0
    assert (desk / "masked.csv").read_text("utf-8") == "data,label\n[EMAIL],yes\n[PHONE],no\nשלום,yes\n"
    assert "personal-" not in kivnun("check", "masked.csv", *columns, work=desk).out
    assert repair(desk, "drop-personal-data", "in.csv", "dropped.csv").status == 0
    assert (desk / "dropped.csv").read_text("utf-8") == "data,label\nשלום,yes\n"


def test_a_row_that_lacks_its_last_bracket_is_named_and_closed(desk: Path) -> None:
    # As the seed 002 prints its second row: `}` closes the list's last message, and the row's own is missing.
    whole = json.dumps({"messages": [{"role": "user", "content": "שלום"}, {"role": "assistant", "content": "}"}]})
    (desk / "cut.jsonl").write_text(f"{whole}\n{whole[:-1]}\n", "utf-8")
    checked = kivnun("check", "cut.jsonl", work=desk)
    assert "cut.jsonl:2: `}` is missing at its end" in checked.out
    assert "kivnun repair close-brackets" in checked.out
    ended = repair(desk, "close-brackets", "cut.jsonl", "closed.jsonl")
    assert ended.out.splitlines() == [
        "closed: }          1",
        "read 2 line(s) of cut.jsonl, wrote 2 to closed.jsonl; log: closed.jsonl.log.jsonl",
    ]
    assert (desk / "closed.jsonl").read_text("utf-8") == f"{whole}\n{whole}\n"


def test_a_hebrew_table_of_windows_becomes_utf8_and_the_guess_is_told(desk: Path) -> None:
    text = "text,label\n" + "יום טוב,שמח\n" * 3
    (desk / "he.csv").write_bytes(text.encode("cp1255"))
    ended = repair(desk, "fix-encoding", "he.csv", "utf8.csv")
    assert ended.status == 0
    assert "cp1255 (Hebrew of Windows) for 3 line(s)" in ended.out
    assert "יום טוב" in ended.out
    assert (desk / "utf8.csv").read_text("utf-8") == text


def test_labels_are_made_equal_in_number(desk: Path) -> None:
    ended = repair(desk, "balance", "rows.jsonl", "even.jsonl", "--by", "up")
    assert ended.status == 0
    assert "'Sure'" in ended.out
    assert len(read(desk / "even.jsonl")) == 8


def test_a_dry_run_tells_everything_and_writes_nothing(desk: Path) -> None:
    ended = repair(desk, "deduplicate", "rows.jsonl", "clean.jsonl", "--dry-run")
    assert "would write 4 to clean.jsonl" in ended.out
    assert [path.name for path in desk.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("deduplicate", "rows.jsonl", "rows.jsonl", "--force"), "file-exists"),
        (("deduplicate", "none.jsonl", "clean.jsonl"), "data-missing"),
        (("mask-personal-data", "rows.jsonl", "clean.csv"), "data-format"),
        (("drop-personal-data", "rows.jsonl", "no/clean.jsonl"), "file-unwritable"),
        (("mask-personal-data", "rows.jsonl", "clean.jsonl", "--kind", "name"), "data-field"),
        (("fix-encoding", "rows.jsonl", "clean.jsonl", "--encoding", "cp0"), "data-encoding"),
        (("balance", "rows.jsonl", "clean.jsonl", "--column", "mood"), "data-field"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    desk: Path, arguments: tuple[str, ...], code: str
) -> None:
    ended = repair(desk, *arguments)
    assert ended.status == 2
    assert f"error[{code}]" in ended.err
    assert "Traceback" not in ended.err
    assert [path.name for path in desk.iterdir()] == ["rows.jsonl"]


def test_a_repair_that_is_stopped_leaves_nothing(desk: Path) -> None:
    with (desk / "many.jsonl").open("w") as file:
        for number in range(400_000):
            file.write(f'{{"prompt": "question {number}", "completion": "call 052-123-4567"}}\n')
    repairing = start_kivnun("repair", "mask-personal-data", "many.jsonl", "masked.jsonl", work=desk)
    wait_until(lambda: any(path.stat().st_size > 100_000 for path in desk.glob(".masked.jsonl.*")), repairing)
    repairing.send_signal(signal.SIGINT)
    _, told = repairing.communicate(timeout=60)
    assert repairing.returncode == 130
    assert "Traceback" not in told
    assert leftovers(desk) == []
    assert sorted(path.name for path in desk.iterdir()) == ["many.jsonl", "rows.jsonl"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not there")
def test_the_hebrew_training_rows_are_freed_of_the_test_rows(desk: Path) -> None:
    folder = DATA / "hebrew_sentiment_omilab"
    train, test = folder / "token_train.tsv", folder / "token_test.tsv"
    ended = repair(desk, "deduplicate", train, "train.tsv", "--against", test, "--json")
    assert json.loads(ended.out)["counts"]["dropped: input stands in the other file"] == 1769
    again = repair(desk, "deduplicate", "train.tsv", "again.tsv", "--against", test, "--json")
    assert json.loads(again.out)["counts"] == {}
    assert (desk / "again.tsv").read_bytes() == (desk / "train.tsv").read_bytes()
