from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kivnun.data.checks.repeats import check_repeats
from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.fingerprint import fingerprint
from kivnun.data.files.find import find_data
from kivnun.data.files.read import stream_rows
from kivnun.data.formats import detect_format
from kivnun.data.rows import Row

DATA = Path(__file__).parents[4] / "shared" / "data"

BASE = "איזה רגש מביע המשפט: הרכבת איחרה שוב והיא חיכתה בגשם שעה ארוכה בלי מטריה ובלי מעיל"
Pair = tuple[str, str]


def ask(question: str, answer: str, system: str = "") -> Conversation:
    turns = [Message("system", system, False)] * bool(system)
    turns += [Message("user", question, False)] * bool(question)
    return Conversation((*turns, Message("assistant", answer, True)), {}, "a:1")


def find(splits: Mapping[str, Sequence[Pair | Conversation]], near: bool = True) -> list[tuple[str, str]]:
    """The code and the place of everything that is found; line n of `train.jsonl` is its n-th row."""
    return [(finding.code, finding.where) for finding in check(splits, near)]


def check(splits: Mapping[str, Sequence[Pair | Conversation]], near: bool = True):
    prints = {}
    for number, (name, rows) in enumerate(splits.items()):
        conversations = [row if isinstance(row, Conversation) else ask(*row) for row in rows]
        prints[name] = fingerprint(conversations, range(1, len(rows) + 1), file=number, near=near)
    return list(check_repeats(prints, [f"{name}.jsonl" for name in splits]))


def test_rows_that_differ_are_not_named() -> None:
    assert find({"train": [("a", "1"), ("b", "1"), ("c", "2")], "test": [("d", "1")]}) == []


def test_every_row_that_stands_earlier_is_named_with_its_first_place() -> None:
    findings = check({"train": [("a", "1"), ("b", "1"), ("a", "1"), ("a", "1")]})
    assert [(finding.code, finding.where) for finding in findings] == [
        ("duplicate-exact", "train.jsonl:3"),
        ("duplicate-exact", "train.jsonl:4"),
    ]
    assert all("train.jsonl:1" in finding.message for finding in findings)


def test_a_row_that_differs_in_punctuation_only_is_nearly_the_same() -> None:
    assert find({"train": [("Hi there", "x"), ("hi, there!", "x")]}, near=False) == [
        ("duplicate-near", "train.jsonl:2")
    ]


def test_a_repeated_row_is_named_once() -> None:
    assert find({"train": [("Hi", "x"), ("hi", "x"), ("hi", "x")]}) == [
        ("duplicate-exact", "train.jsonl:3"),
        ("duplicate-near", "train.jsonl:2"),
    ]


def test_another_answer_to_the_same_input_is_a_conflict() -> None:
    rows = [("טוב מאוד", "חיובי"), ("טוב, מאוד!", "שלילי"), ("אחר", "שלילי")]
    assert find({"train": rows}) == [("conflicting-answers", "train.jsonl:2")]


def test_another_instruction_makes_no_conflict() -> None:
    assert find({"train": [ask("שלום", "hello", "to English"), ask("שלום", "bonjour", "to French")]}) == []


def test_documents_contradict_nothing() -> None:
    assert find({"train": [ask("", "one document"), ask("", "another document")]}) == []


def test_an_input_of_test_that_stands_in_train_leaks_whatever_its_answer_and_system_turn() -> None:
    train = [ask(f"question {number}", "x", "be kind") for number in range(30)]
    test = [*(ask(f"other {number}", "x") for number in range(40)), ask("Question 7?", "y", "be rude")]
    assert find({"train": train, "test": test}, near=False) == [("leak-exact", "test.jsonl:41")]


def test_more_than_one_test_row_in_twenty_in_train_is_a_large_leak_with_its_figures() -> None:
    train = [(f"question {number}", "x") for number in range(30)]
    clean = [(f"other {number}", "x") for number in range(38)]
    assert {code for code, _ in find({"train": train, "test": [*clean, *train[:2]]})} == {"leak-exact"}
    large = check({"train": train, "test": [*clean[1:], *train[:3]]})
    assert (large[0].code, large[0].where) == ("leak-large", "test.jsonl")
    assert large[0].message == "3 of 40 test rows (8%) have an input that stands in train"


def test_validation_rows_in_train_leak_but_are_no_large_leak() -> None:
    assert find({"validation": [("a", "1")], "train": [("a", "1")]}) == [("leak-validation", "validation.jsonl:1")]


def test_nearly_equal_inputs_with_the_same_answer_are_near_duplicates() -> None:
    assert find({"train": [(BASE, "עצב"), (BASE + "ים", "עצב")]}) == [("duplicate-near", "train.jsonl:2")]


def test_nearly_equal_inputs_with_different_answers_are_different_rows() -> None:
    assert find({"train": [(BASE, "עצב"), (BASE + "ים", "שמחה")]}) == []


def test_nearly_equal_documents_are_near_duplicates() -> None:
    assert find({"train": [ask("", BASE), ask("", BASE + "ים")]}) == [("duplicate-near", "train.jsonl:2")]


def test_a_test_row_that_is_nearly_a_training_row_leaks_whatever_its_answer() -> None:
    findings = check({"test": [("x", "y"), (BASE + "ים", "שמחה")], "train": [(BASE, "עצב")]})
    assert [(finding.code, finding.where) for finding in findings] == [("leak-near", "test.jsonl:2")]
    assert "train.jsonl:1 of train" in findings[0].message


def test_without_signatures_nothing_is_said_of_near_rows() -> None:
    assert find({"train": [(BASE, "a")], "test": [(BASE + "s", "a")]}, near=False) == []


def test_many_rows_that_share_an_instruction_are_one_finding_with_their_number() -> None:
    instruction = " ".join(
        f"rule {number} of the long instruction that stands before each text" for number in range(30)
    )
    findings = check({"train": [(f"{instruction} {number}", "x") for number in range(25)]})
    assert [finding.code for finding in findings] == ["duplicate-near"]
    assert "25 rows hang together" in findings[0].message


def test_splits_without_rows_are_no_trouble() -> None:
    assert find({"train": [], "test": []}) == []
    assert find({}) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not there")
@pytest.mark.parametrize(
    ("folder", "leaked"), [("hebrew_sentiment_omilab", 1338), ("banking77", 25), ("tweeteval/emotion", 1)]
)
def test_the_leaks_of_public_data_are_found(folder: str, leaked: int) -> None:
    prints = {}
    for file in find_data(str(DATA / folder)).files:
        rows = [item for item in stream_rows(file) if isinstance(item, Row)]
        read = detect_format(rows[:100]).format.read
        prints[file.split] = fingerprint([read(row) for row in rows], [row.line for row in rows], file=0, near=False)
    assert [finding.code for finding in check_repeats(prints, ["any"])].count("leak-exact") == leaked
