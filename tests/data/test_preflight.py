"""The checks before training: errors refuse, accepted codes do not, and what was found is kept beside the data set."""

import json
from pathlib import Path

import pytest
from tiny_data import WORDS, refusal, section

from kivnun.data.check_counts import count_checks, say_checks
from kivnun.data.checks.report import CheckReport
from kivnun.data.encode import Encoder
from kivnun.data.preflight import (
    check_before_training,
    check_splits,
    require_known_checks,
    require_no_errors,
    write_check,
)
from kivnun.data.reading import read_data
from kivnun.recipe.schema import DataSection

TEMPLATE = "You see a short text, and have to say which feeling it shows.\nText: {text}\nFeeling: {label}"


def write(name: str, rows: list[dict[str, object]]) -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return name


def rows(words: tuple[str, ...] = WORDS, **more: object) -> list[dict[str, object]]:
    return [{"text": word, "label": "joy" if number % 2 else "anger", **more} for number, word in enumerate(words)]


def check(data: DataSection, encoder: Encoder | None = None, objective: str = "supervised") -> CheckReport:
    return check_splits(read_data(data, objective), data, name="recipe.yaml", encoder=encoder)


def codes(report: CheckReport) -> set[str]:
    return {found.code for found in report.found}


def leaking(**values: object) -> DataSection:
    write("train.jsonl", rows())
    write("test.jsonl", rows(WORDS[:3]))
    return section(test="test.jsonl", split={"validation": 0}, **values)


def test_errors_refuse_with_their_places_and_the_way_to_accept_them(here: Path) -> None:
    report = check(leaking())
    assert {"leak-large", "leak-exact"} <= codes(report)
    error = refusal(lambda: require_no_errors(report, recipe="my.yaml"))
    assert error.code == "data-check"
    assert error.problem == "1 error(s) in the data: leak-large"
    assert error.details[0].startswith("test.jsonl: 3 of 3 test rows (100%) have an input that stands in train")
    assert error.details[0].endswith("(leak-large)")
    assert "`kivnun check my.yaml`" in error.hint
    assert "data.ignore_checks: [leak-large]" in error.hint


def test_an_accepted_code_does_not_refuse_and_is_counted(here: Path) -> None:
    report = check(leaking(ignore_checks=["leak-large"]))
    require_no_errors(report, recipe="my.yaml")
    counts = count_checks(report)
    assert counts["ignored"] == {"leak-large": 1}
    assert any(line == "1 finding(s) accepted by data.ignore_checks: leak-large 1" for line in say_checks(counts))


def test_warnings_do_not_refuse_and_are_said(here: Path) -> None:
    write("train.jsonl", [*rows(), {"text": "write to dan@example.org", "label": "joy"}])
    report = check(section(split={"validation": 0, "test": 0}))
    require_no_errors(report, recipe="my.yaml")
    (line,) = say_checks(count_checks(report))
    assert "personal-email 1" in line


def test_codes_that_no_check_has_are_refused(here: Path) -> None:
    error = refusal(lambda: require_known_checks(["leak-large", "leak-lage"]))
    assert error.code == "recipe-invalid"
    assert error.problem == "data.ignore_checks: no check has the code `leak-lage`; did you mean `leak-large`?"
    assert refusal(lambda: check(leaking(ignore_checks=["nothing"]))).code == "recipe-invalid"


def test_what_the_template_adds_makes_no_rows_near_duplicates(here: Path) -> None:
    write("train.jsonl", rows())
    assert not {"duplicate-near", "leak-near"} & codes(check(section(text_template=TEMPLATE, split={"test": 5})))


def test_the_tokenizer_reads_what_the_template_writes(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", rows())
    data = section(text_template=TEMPLATE, split={"validation": 0, "test": 0})
    tokens = check(data, encoder).statistics["train"]["tokens"]
    prompts = [len(encoder.encode_prompt(TEMPLATE.partition("{label}")[0].format(text=word))) for word in WORDS]
    assert tokens["row_tokens"]["max"] > max(prompts)


def test_rows_that_are_too_long_are_left_to_the_tokenising(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [*rows(), {"text": "long " * 200, "label": "joy"}])
    data = section(text_template=TEMPLATE, split={"validation": 0, "test": 0}, max_seq_len=150)
    assert "prompt-too-long" in codes(check(data, encoder))
    report = check_before_training(read_data(data, "supervised"), data, recipe="recipe.yaml", encoder=encoder)
    require_no_errors(report, recipe="my.yaml")
    assert not {"answer-cut", "prompt-too-long"} & {*codes(report), *count_checks(report)["ignored"]}


def test_that_only_wanted_answers_are_left_is_no_fault(here: Path) -> None:
    write("train.jsonl", [{"prompt": word, "completion": f"not {word}", "label": word != "rain"} for word in WORDS])
    assert "kto-one-sided" not in codes(check(section(split={"validation": 0, "test": 0})))


def test_documents_are_not_checked_as_if_they_were_turns(here: Path) -> None:
    (here / "book.txt").write_text("\n<|endoftext|>\n".join(f"a tale of {word}" for word in WORDS), "utf-8")
    report = check(section("book.txt", split={"validation": 0, "test": 0}), objective="text")
    assert not {"order-no-user", "rows-few", "rows-below-minimum", "label-single"} & codes(report)
    require_no_errors(report, recipe="my.yaml")


def test_what_was_found_is_kept_for_programs_and_people(here: Path) -> None:
    report = check(leaking())
    write_check(report, here)
    kept = json.loads((here / "check.json").read_text("utf-8"))
    assert kept["num_errors"] == 1
    assert kept["found"][0]["code"] == "leak-large"
    assert "leak-large" in (here / "check.html").read_text("utf-8")


def test_equal_data_leaves_equal_files(here: Path) -> None:
    folders = [here / "one", here / "two"]
    for folder in folders:
        folder.mkdir()
        write_check(check(leaking()), folder)
    for name in ("check.json", "check.html"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second


@pytest.mark.parametrize(("count", "said"), [(3, "duplicate-exact 1, html-text 1, leak-exact 1"), (12, "4 more")])
def test_many_codes_are_said_in_one_line(count: int, said: str) -> None:
    names = ["duplicate-exact", "html-text", "leak-exact", *(f"code-{number}" for number in range(9))][:count]
    (line,) = say_checks({"warnings": dict.fromkeys(names, 1)})
    assert line.startswith(f"{count} warning(s): ")
    assert line.endswith(said)


def poems(count: int, first: int = 0) -> list[dict[str, object]]:
    """Rows that all ask the same, with different answers."""
    return [{"prompt": "כתוב שיר קצר", "completion": f"שיר {number} של {number}"} for number in range(first, count)]


def test_what_all_rows_ask_is_no_leak_of_a_split_that_was_cut(here: Path) -> None:
    write("train.jsonl", poems(60))
    data = section()
    read = read_data(data, "supervised")
    report = check_splits(read, data, name="recipe.yaml")
    require_no_errors(report, recipe="my.yaml")
    assert not {"leak-large", "leak-exact", "leak-validation"} & codes(report)
    assert [note.partition(": ")[0] for note in read.notes[1:]] == [
        "6 of 6 validation rows ask what very many rows ask",
        "6 of 6 test rows ask what very many rows ask",
    ]


def test_what_all_rows_ask_is_a_leak_of_a_test_file_that_was_given(here: Path) -> None:
    write("train.jsonl", poems(60))
    write("test.jsonl", poems(70, first=60))
    report = check(section(test="test.jsonl", split={"validation": 5}))
    assert {"leak-large", "leak-exact"} <= codes(report)
    assert "leak-validation" not in codes(report)
    assert refusal(lambda: require_no_errors(report, recipe="my.yaml")).code == "data-check"


def test_other_leaks_count_beside_what_all_rows_ask(here: Path) -> None:
    twins: list[dict[str, object]] = [
        {"prompt": f"about {number}", "completion": answer} for number in range(40) for answer in ("yes", "no")
    ]
    write("train.jsonl", [*poems(60), *twins])
    data = section(split={"validation": 0, "test": 0.5, "near_duplicates": "ignore"})
    read = read_data(data, "supervised")
    asked = {split: [row.messages[0].content for row in part] for split, part in read.splits.items()}
    leaked = [text for text in asked["test"] if text in asked["train"] and text.startswith("about")]
    report = check_splits(read, data, name="recipe.yaml")
    counts = {found.code: found.count for found in report.found}
    assert leaked
    assert (counts["leak-large"], counts["leak-exact"]) == (1, len(leaked))


def labelled(*labels: str, start: int = 0) -> list[dict[str, object]]:
    return [{"text": f"{WORDS[n % 15]} {n} {n * n}", "label": label} for n, label in enumerate(labels, start=start)]


def test_a_rare_label_that_the_recipe_cut_off_is_a_warning(here: Path) -> None:
    write("train.jsonl", labelled(*["joy", "anger"] * 60, *(f"rare {number}" for number in range(12))))
    report = check(section(split={"validation": 0.2, "test": 0.2, "near_duplicates": "ignore"}))
    assert {found.severity for found in report.found if found.code == "label-not-in-train"} == {"warning"}
    require_no_errors(report, recipe="my.yaml")


def test_a_label_that_only_a_given_test_file_has_is_an_error(here: Path) -> None:
    write("train.jsonl", labelled(*["joy", "anger"] * 60))
    write("test.jsonl", labelled("joy", "fear", start=500))
    report = check(section(test="test.jsonl", split={"validation": 10}))
    assert {found.severity for found in report.found if found.code == "label-not-in-train"} == {"error"}


def test_rows_of_one_line_are_each_looked_at_by_the_tokenizer(here: Path, encoder: Encoder) -> None:
    turns = [
        [{"role": "user", "content": word}, {"role": "assistant", "content": "long " * 100 * (place == 3)}]
        for place, word in enumerate(WORDS)
    ]
    for each in turns:
        each[1]["content"] = each[1]["content"] or "yes"
    Path("train.json").write_text(json.dumps([{"messages": each} for each in turns]), "utf-8")
    report = check(section("train.json", split={"validation": 0, "test": 0}, max_seq_len=150), encoder)
    assert {found.code: found.count for found in report.found}["answer-cut"] == 1
