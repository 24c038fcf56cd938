from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.checks.labels import LabelCounts, check_labels, count_labels
from kivnun.data.conversation import Conversation, Message, ToolCall


def rows_of(split: str, labels: Mapping[str, int]) -> list[Conversation]:
    answers = [label for label, count in labels.items() for _ in range(count)]
    return [answer_with(answer, f"{split}.csv:{line}") for line, answer in enumerate(answers, start=1)]


def answer_with(answer: str, where: str = "a:1") -> Conversation:
    return Conversation((Message("user", "x", False), Message("assistant", answer, True)), {}, where)


def find(**splits: Mapping[str, int]) -> list[tuple[str, str]]:
    counts = {name: count_labels(rows_of(name, labels)) for name, labels in splits.items()}
    return [(finding.code, finding.where) for finding in check_labels(counts)]


def test_labels_of_equal_number_are_fine() -> None:
    assert find(train={"חיובי": 20, "שלילי": 25}, test={"חיובי": 1}) == []


def test_a_label_with_ten_times_the_rows_of_another_is_an_imbalance() -> None:
    assert find(train={"a": 199, "b": 20}) == []
    assert find(train={"a": 200, "b": 20}) == [("label-imbalance", "train.csv")]


def test_a_label_of_fewer_than_ten_rows_is_rare_and_named_where_it_first_stands() -> None:
    assert find(train={"a": 20, "b": 9}) == [("label-rare", "train.csv:21")]


def test_one_answer_for_all_rows_teaches_nothing() -> None:
    assert find(train={"a": 2}) == [("label-single", "train.csv:1")]
    assert find(train={"a long answer " * 20: 2}) == [("label-single", "train.csv:1")]
    assert find(train={"a": 1}) == []


def test_a_label_that_only_test_has_is_named() -> None:
    train = {"a": 20, "b": 20}
    assert find(train=train, test={"a": 1, "c": 1}) == [("label-not-in-train", "test.csv:2")]
    assert find(train=train, validation={"d": 1}) == [("label-not-in-train", "validation.csv:1")]


def test_labels_that_differ_in_case_or_space_are_one_label_written_twice() -> None:
    assert find(train={"Joy": 20, "joy": 11, "fear": 20}) == [("label-variants", "train.csv:21")]
    assert find(train={"good mood": 20, "good  mood ": 11}) == [("label-variants", "train.csv:21")]
    assert find(train={"joy": 20, "fear": 20}, test={"JOY": 1}) == [
        ("label-not-in-train", "test.csv:1"),
        ("label-variants", "test.csv:1"),
    ]


def test_free_answers_are_no_labels() -> None:
    assert find(train={f"answer {number}": 1 for number in range(50)} | {"yes": 100}, test={"else": 1}) == []
    assert find(train={"x" * 81: 20, "y": 2}, test={"else": 1}) == []


def test_more_than_200_answers_are_no_labels_and_take_no_memory() -> None:
    assert count_labels(rows_of("train", {str(number): 5 for number in range(200)})).is_classification
    counts = count_labels(rows_of("train", {str(number): 5 for number in range(201)}))
    assert (counts.is_classification, counts.labels, counts.num_rows) == (False, {}, 1005)


PLAIN = answer_with("a").messages


@pytest.mark.parametrize(
    "conversation",
    [
        Conversation((Message("assistant", "a", True),), {}, "a:1"),
        Conversation(PLAIN, {}, "a:1", rejected=Message("assistant", "b", False)),
        Conversation(PLAIN, {}, "a:1", desirable=True),
        Conversation((PLAIN[0], Message("assistant", "", True, tool_calls=(ToolCall("1", "f", "{}"),))), {}, "a:1"),
        Conversation((PLAIN[0],), {}, "a:1"),
    ],
    ids=["document", "preference", "kto", "call", "reinforcement"],
)
def test_rows_of_other_kinds_have_no_labels(conversation: Conversation) -> None:
    assert count_labels([*rows_of("train", {"a": 20, "b": 20}), conversation]).are_too_many


@given(st.lists(st.sampled_from(["a", "b", "c" * 90, *map(str, range(150, 360))]), max_size=300), st.data())
def test_counts_of_parts_merge_to_the_count_of_the_whole(answers: list[str], data: st.DataObject) -> None:
    rows = [answer_with(answer, f"a:{line}") for line, answer in enumerate(answers)]
    cut = data.draw(st.integers(0, len(rows)))
    whole, merged = count_labels(rows), count_labels(rows[:cut]).merge(count_labels(rows[cut:]))
    assert (merged.labels, merged.num_rows, merged.are_too_many) == (whole.labels, whole.num_rows, whole.are_too_many)
    assert merged.is_classification == whole.is_classification


def test_nothing_is_said_without_training_rows() -> None:
    assert list(check_labels({})) == list(check_labels({"train": LabelCounts()})) == []
    assert find(test={"a": 5}) == []
