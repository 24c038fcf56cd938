"""What only all rows together show: found whatever the cut into blocks, and silent where nothing is wrong."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.checks.statistics import Statistics
from kivnun.data.checks.whole import Evidence, check_whole, count_unshown
from kivnun.data.conversation import Conversation, Message
from kivnun.data.findings import Finding


def ask(question: str, answer: str, *, system: str = "", rejected: str | None = None) -> Conversation:
    turns = [Message("system", system, trained=False)] if system else []
    turns += [Message("user", question, trained=False), Message("assistant", answer, trained=True)]
    other = None if rejected is None else Message("assistant", rejected, trained=False)
    return Conversation(tuple(turns), {}, "a.jsonl:1", rejected=other)


def judge(
    rows: Sequence[Conversation], *, cut: int = 0, split: str = "train", documents: bool = False, labels: bool = False
) -> list[Finding]:
    evidence, statistics = Evidence(), Statistics()
    for start, part in ((0, rows[:cut]), (cut, rows[cut:])):
        later, figures = Evidence(), Statistics()
        lines = [start + number for number in range(1, len(part) + 1)]
        later.add(part, lines, "a.jsonl", figures.add(part))
        evidence.merge(later)
        statistics.merge(figures)
    files = {split: "a.jsonl"}
    return list(check_whole({split: evidence}, {split: statistics}, files, are_documents=documents, are_labels=labels))


def codes(rows: Sequence[Conversation], **more: object) -> set[str]:
    return {finding.code for finding in judge(rows, **more)} - {"rows-few", "rows-below-minimum", "split-missing"}


ENGLISH, HEBREW = ask("Where is it?", "Over there."), ask("איפה זה?", "שם, ליד הדלת.")
CROSSED = ask("איפה זה?", "Over there.")


def test_rows_that_are_alike_show_nothing() -> None:
    assert codes([ENGLISH] * 300) == set()


@pytest.mark.parametrize(("having", "lacking", "line"), [(1, 4, 5), (4, 1, 1)])
def test_the_first_row_of_the_smaller_side_is_named_for_system_turns(having: int, lacking: int, line: int) -> None:
    rows = [ENGLISH] * lacking + [ask("Where?", "There.", system="Be brief.")] * having
    (finding,) = [finding for finding in judge(rows) if finding.code == "system-mixed"]
    assert finding.line == line
    assert finding.message == f"{having} rows have a system turn, {lacking} have none"


def test_the_first_row_is_named_even_where_a_later_block_has_more_of_its_kind() -> None:
    rows = [ENGLISH, ask("Where?", "There.", system="Be brief."), ENGLISH] * 2
    (finding,) = [finding for finding in judge(rows, cut=3) if finding.code == "system-mixed"]
    assert finding.line == 2


@pytest.mark.parametrize(("rows", "code"), [(9, "rows-below-minimum"), (10, "rows-few"), (199, "rows-few"), (200, "")])
def test_few_rows_are_said_in_two_steps(rows: int, code: str) -> None:
    found = {finding.code for finding in judge([ENGLISH] * rows)} & {"rows-below-minimum", "rows-few"}
    assert found == ({code} if code else set())


def test_test_rows_alone_are_not_too_few_to_train_on() -> None:
    assert judge([ENGLISH] * 3, split="test") == []


def test_documents_have_neither_turns_nor_a_usual_number() -> None:
    long = ask("a", "word " * 9000)
    assert codes([ENGLISH, long, ask("a", "b", system="c")], documents=True) == set()
    assert "rows-below-minimum" not in {finding.code for finding in judge([ENGLISH], documents=True)}


@pytest.mark.parametrize("number", [30, 400])
def test_a_row_far_longer_than_the_others_is_named(number: int) -> None:
    rows = [ENGLISH] * number + [ask("Where?", "far " * 800)]
    found = [finding for finding in judge(rows) if finding.code == "length-outlier"]
    assert [(finding.line, finding.message) for finding in found] == [
        (number + 1, "3,206 characters, where the middle row has 23")
    ]


def test_the_usual_long_tail_of_many_rows_is_no_outlier() -> None:
    rows = [ENGLISH] * 380 + [ask("Where?", "far " * 600)] * 20
    assert "length-outlier" not in codes(rows)


def test_hundreds_of_characters_are_never_an_outlier() -> None:
    assert "length-outlier" not in codes([ask("a", "b")] * 50 + [ask("Where?", "far " * 400)])


def pairs(longer: int, shorter: int) -> list[Conversation]:
    return [ask("a?", "longer", rejected="x")] * longer + [ask("a?", "x", rejected="longer")] * shorter


@pytest.mark.parametrize(("longer", "shorter", "found"), [(19, 0, False), (20, 0, True), (27, 3, True), (26, 4, False)])
def test_preferences_for_length_are_found_from_nine_of_ten(longer: int, shorter: int, found: bool) -> None:
    assert ("preference-length" in codes(pairs(longer, shorter))) == found


def test_kto_labels_of_one_kind_are_found_and_of_two_are_not() -> None:
    good, bad = (Conversation(ENGLISH.messages, {}, "a.jsonl:1", desirable=kind) for kind in (True, False))
    assert [finding.message for finding in judge([good] * 3) if finding.code == "kto-one-sided"] == [
        "all 3 labels are true"
    ]
    assert "kto-one-sided" in codes([bad] * 3)
    assert "kto-one-sided" not in codes([good, bad])
    assert "kto-one-sided" not in codes([good])


def test_answers_in_another_script_are_found_where_they_are_few() -> None:
    found = [finding for finding in judge([HEBREW] * 5 + [CROSSED]) if finding.code == "language-answer"]
    assert [(finding.line, finding.message) for finding in found] == [
        (6, "the answer is written in Latin, what it answers in Hebrew")
    ]
    assert "language-answer" not in codes([CROSSED] * 5)
    assert "language-answer" not in codes([HEBREW] * 5 + [CROSSED], labels=True)
    assert "language-answer" not in codes([HEBREW] * 5 + [ask("כמה זה?", "12")])


def test_all_answers_in_another_script_count_even_if_few_are_shown() -> None:
    evidence = Evidence()
    rows = [HEBREW] * 70 + [CROSSED] * 30
    evidence.add(rows, range(1, 101), "a.jsonl", [1] * 100)
    assert len(evidence.foreign) == 20
    assert count_unshown({"train": evidence}, {"language-answer": 20}) == {"language-answer": 10}
    assert count_unshown({"train": evidence}, {}) == {}


def test_scripts_are_told_with_their_shares() -> None:
    (finding,) = [finding for finding in judge([HEBREW, ENGLISH]) if finding.code == "language-mix"]
    assert finding.message == "Latin 54.5%, Hebrew 45.5% of the letters"


@given(cut=st.integers(0, 9), order=st.permutations(range(9)))
def test_the_cut_into_blocks_changes_nothing(cut: int, order: list[int]) -> None:
    kinds = [HEBREW, ENGLISH, CROSSED, ask("a", "b" * 5000), *pairs(1, 1), ask("Where?", "There.", system="Be brief.")]
    rows = [(kinds * 2)[place] for place in order]
    assert judge(rows, cut=cut) == judge(rows)
