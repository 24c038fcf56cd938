"""`kivnun check` from end to end: what it prints, writes and ends with, and how it stops."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, children_of, example_rows, is_alive, kivnun, leftovers, start_kivnun, wait_until, write_jsonl

Command = Callable[..., Ended]

SHARED = Path(__file__).parents[3] / "shared" / "data"
shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Training and test rows without a fault; they are in the current folder."""
    monkeypatch.chdir(tmp_path)
    rows = [chat(f"{row['phrase']} ({number})", row["tone"]) for number, row in enumerate(example_rows(230))]
    write_jsonl(tmp_path / "train.jsonl", rows[:205])
    write_jsonl(tmp_path / "test.jsonl", rows[205:])
    return tmp_path


def break_rows(folder: Path) -> None:
    """A line that is no JSON, a repeated row, and one in Hebrew with a phone number."""
    lines = (folder / "train.jsonl").read_text("utf-8").splitlines()
    phone = json.dumps(chat("להתקשר אל 052-1234567", "בסדר"), ensure_ascii=False)
    lines[3:6] = ["{broken", lines[0], phone]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def test_good_data_ends_with_zero_even_where_it_must_be_strict(good: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("check", ".", "--strict", "--near", "off")
    assert ended.status == 0, ended.out
    assert "0 errors, 0 warnings" in ended.out
    assert "in 230 rows of 2 files" in ended.out
    assert ended.err == ""
    assert leftovers(good) == []


def test_errors_end_with_two_and_are_named_with_their_line_and_a_hint(good: Path, kivnun_here: Command) -> None:
    break_rows(good)
    ended = kivnun_here("check", "train.jsonl", "--test", "test.jsonl")
    assert ended.status == 2
    assert "train.jsonl:4: " in ended.out
    assert "hint: mend the line" in ended.out
    assert "train.jsonl:5: the same row as train.jsonl:1" in ended.out
    assert "1,234" not in ended.out


@pytest.mark.parametrize(("strict", "status"), [((), 0), (("--strict",), 1)])
def test_warnings_end_with_one_where_they_count(
    good: Path, strict: tuple[str, ...], status: int, kivnun_here: Command
) -> None:
    (good / "test.jsonl").unlink()
    rows = (good / "train.jsonl").read_text("utf-8").splitlines(keepends=True)
    (good / "train.jsonl").write_text("".join(rows[:100]), "utf-8")
    assert kivnun_here("check", "train.jsonl", "--near", "off", *strict).status == status
    assert kivnun_here("check", "train.jsonl", "--near", "off", *strict, "--ignore", "rows-few").status == 0


def test_what_is_ignored_is_counted_aloud(good: Path, kivnun_here: Command) -> None:
    break_rows(good)
    ended = kivnun_here("check", "train.jsonl", "--ignore", "json-syntax")
    assert ended.status == 0
    assert "ignored: json-syntax, found 1 times" in ended.out


def test_a_misspelt_code_format_or_name_is_refused_with_a_proposal(good: Path, kivnun_here: Command) -> None:
    for words in (("--ignore", "json-sintax"), ("--from", "alpacca"), ("--for", "opnai"), ("--near", "maybe")):
        ended = kivnun_here("check", "train.jsonl", *words)
        assert ended.status == 2
        assert "Traceback" not in ended.err
    assert "json-syntax" in kivnun_here("check", "train.jsonl", "--ignore", "json-sintax").err
    assert "alpaca" in kivnun_here("check", "train.jsonl", "--from", "alpacca").err
    assert "error[data-missing]" in kivnun_here("check", "no.jsonl").err
    assert kivnun_here("check").status == 2


def test_json_is_the_whole_report(good: Path, kivnun_here: Command) -> None:
    break_rows(good)
    ended = kivnun_here("check", ".", "--json")
    value = json.loads(ended.out)
    assert ended.status == value["exit_status"] == 2
    assert value["num_errors"] == 1
    assert {found["code"] for found in value["found"]} >= {"json-syntax", "duplicate-exact", "personal-phone"}
    assert [file["split"] for file in value["files"]] == ["train", "test"]
    assert value["statistics"]["train"]["rows"] == 204
    assert "052-1234567" not in ended.out


def test_the_page_and_the_log_are_written_beside_the_table(good: Path, kivnun_here: Command) -> None:
    break_rows(good)
    ended = kivnun_here("check", ".", "--html", "out/check.html", "--sarif", "out/check.sarif")
    assert ended.status == 2
    assert "wrote out/check.html" in ended.err
    page = (good / "out/check.html").read_text("utf-8")
    assert "train.jsonl:4" in page
    assert "052-1234567" not in page
    log = json.loads((good / "out/check.sarif").read_text("utf-8"))
    results = {result["ruleId"]: result for result in log["runs"][0]["results"]}
    location = results["json-syntax"]["locations"][0]["physicalLocation"]
    assert location == {
        "artifactLocation": {"uri": "train.jsonl", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 4},
    }
    assert kivnun_here("check", ".", "--html", "train.jsonl").status == 2
    assert (good / "train.jsonl").read_text("utf-8").startswith("{")


def test_splits_may_be_named_whatever_the_files_are_called(good: Path, kivnun_here: Command) -> None:
    (good / "test.jsonl").rename(good / "b.jsonl")
    (good / "train.jsonl").rename(good / "a.jsonl")
    ended = kivnun_here("check", "--train", "a.jsonl", "--validation", "b.jsonl", "--test", "b.jsonl", "--json")
    assert [(file["path"], file["split"]) for file in json.loads(ended.out)["files"]] == [
        ("a.jsonl", "train"),
        ("b.jsonl", "validation"),
        ("b.jsonl", "test"),
    ]


def test_rows_of_the_data_do_not_steer_the_terminal(good: Path, kivnun_here: Command) -> None:
    rows = [chat(f"Say {number}", "Yes, {{name\x1b}} \u202e.") for number in range(9)]
    write_jsonl(good / "train.jsonl", [*rows, {"messages": [{"role": "\x1b[31m\u202eשלום", "content": "a"}]}])
    out = kivnun_here("check", "train.jsonl").out
    assert "role-unknown" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_a_model_brings_the_token_checks(good: Path, tiny_base: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("check", ".", "--model", tiny_base, "--max-seq-len", "8", "--json", "--near", "off")
    value = json.loads(ended.out)
    assert ended.status == 2
    assert {found["code"] for found in value["found"]} >= {"prompt-too-long"}
    assert value["statistics"]["train"]["tokens"]["rows"] == 205
    assert not [each for each in value["not_run"] if each["what"].startswith("tokens")]


def test_a_recipe_is_checked_as_its_run_would_read_it(work: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("check", "recipe.yaml", "--json")
    value = json.loads(ended.out)
    assert ended.status == 0, ended.out
    assert {file["split"]: file["num_rows"] for file in value["files"]} == {"train": 52, "validation": 8, "test": 12}
    assert value["statistics"]["train"]["tokens"]["rows"] == 52
    (found,) = [found for found in value["found"] if found["code"] == "rows-few"]
    assert found["count"] == 1
    assert kivnun_here("check", "recipe.yaml", "--max-seq-len", "8").status == 2
    assert not (work / "runs").exists()


def test_ctrl_c_ends_the_command_and_its_workers(tmp_path: Path) -> None:
    line = json.dumps(chat("Where is it? " * 20, "Over there. " * 20)) + "\n"
    (tmp_path / "rows.jsonl").write_text(line * 150_000, "utf-8")
    process = start_kivnun("check", "rows.jsonl", "--html", "check.html", work=tmp_path)
    wait_until(lambda: len(children_of(process.pid)) >= 2, process)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    wait_until(lambda: not any(map(is_alive, workers)))
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "check.html").exists()


def test_workers_do_not_outlive_a_command_that_is_killed(tmp_path: Path) -> None:
    line = json.dumps(chat("Where is it? " * 20, "Over there. " * 20)) + "\n"
    (tmp_path / "rows.jsonl").write_text(line * 150_000, "utf-8")
    process = start_kivnun("check", "rows.jsonl", work=tmp_path)
    wait_until(lambda: len(children_of(process.pid)) >= 2, process)
    workers = children_of(process.pid)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, workers)))


@shared_data
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("hebrew_sentiment_omilab", "leak-large", "1,338 of 2,560 test rows"),
        ("banking77", "leak-exact", "25 of 3,080 test rows"),
        ("tweeteval/emotion", "leak-exact", "1 of 1,421 test rows"),
        ("snips_intents", "encoding-not-utf8", "byte 0xed is not UTF-8"),
        ("openai_ft_samples/toy_chat_fine_tuning.jsonl", "length-outlier", "26,077 characters"),
        ("openai_ft_samples/toy_chat_fine_tuning.jsonl", "order-no-user", "no user turn"),
        ("openai_ft_samples/toy_chat_fine_tuning.jsonl", "duplicate-exact", "the same row"),
    ],
)
def test_known_data_has_its_known_faults(name: str, code: str, words: str, kivnun_here: Command) -> None:
    value = json.loads(kivnun_here("check", SHARED / name, "--json", "--near", "off").out)
    found = next(found for found in value["found"] if found["code"] == code)
    assert any(words in example["message"] for example in found["examples"])


def test_small_data_needs_no_tokenizer_and_no_arrays_of_torch(good: Path) -> None:
    code = "import sys; sys.argv = ['kivnun', 'check', '.']\nfrom kivnun.cli.app import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nassert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)\n"
    (good / "light.py").write_text(code)
    ended = kivnun("check", "train.jsonl", work=good)
    assert ended.status == 0, ended.err
    import subprocess
    import sys

    subprocess.run([sys.executable, "light.py"], cwd=good, check=True, capture_output=True)
