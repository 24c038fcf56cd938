import pytest
from conversations import codes, say

from kivnun.data.formats.base import Format
from kivnun.data.formats.instances import SNIPS, SQUAD, SUPER_NI
from kivnun.data.rows import Row

TASK = {"definition": "תרגם", "input": "hello", "output": ["שלום", "היי", "שלום"], "id": "t-1"}
INTENT = {"text": "שים שיר", "intent": "PlayMusic", "slots": [{"entity": "album", "value": "x", "start": 3}]}
QUESTION = {"context": "בחיפה יש נמל.", "question": "איפה?", "id": "q"}


@pytest.mark.parametrize(
    ("format_", "fields"), [(SUPER_NI, TASK), (SNIPS, INTENT), (SQUAD, {**QUESTION, "answers": []})]
)
def test_rows_are_recognised_and_only_read(format_: Format, fields: dict[str, object]) -> None:
    assert format_.recognise(fields)
    assert format_.recognise({"text": "a"}) is None
    assert format_.write is None


def test_the_definition_comes_before_the_input_and_further_answers_are_references() -> None:
    got = SUPER_NI.read(Row(TASK, "task.json", 3))
    assert got.messages == (say("user", "תרגם\n\nhello"), say("assistant", "שלום"))
    assert got.extra == {"id": "t-1", "references": ["היי"]}


def test_the_intent_is_learnt_and_the_slots_are_kept() -> None:
    got = SNIPS.read(Row(INTENT, "train.json", 3))
    assert got.messages == (say("user", "שים שיר"), say("assistant", "PlayMusic"))
    assert got.extra == {"slots": INTENT["slots"]}


@pytest.mark.parametrize(
    ("answers", "extra"),
    [
        (["בחיפה"], {}),
        ('["בחיפה"]', {}),
        ({"text": ["בחיפה", "חיפה", "בחיפה"]}, {"references": ["חיפה"]}),
        ({"text": ["בחיפה"], "answer_start": [0]}, {"answers.answer_start": [0]}),
    ],
)
def test_a_question_stands_behind_its_context(answers: object, extra: dict[str, object]) -> None:
    got = SQUAD.read(Row({**QUESTION, "answers": answers}, "dev.json", 3))
    assert got.messages == (say("user", "בחיפה יש נמל.\n\nאיפה?"), say("assistant", "בחיפה"))
    assert got.extra == {"id": "q", **extra}


def test_references_of_the_row_itself_are_not_overwritten() -> None:
    got = SUPER_NI.read(Row({**TASK, "references": "see p. 3"}, "task.json", 3))
    assert got.extra == {"id": "t-1", "references": "see p. 3", "references_": ["היי"]}


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (None, "field-null"),
        ([], "field-empty"),
        ({"text": []}, "field-empty"),
        ({"answer_start": []}, "field-missing"),
        ([["a"]], "field-type"),
    ],
)
def test_a_question_without_an_answer_is_refused(answers: object, code: str) -> None:
    assert codes(SQUAD, {**QUESTION, "answers": answers}) == [code]


def test_everything_that_is_missing_is_said() -> None:
    assert codes(SUPER_NI, {}) == ["field-missing"] * 3
    assert codes(SNIPS, {}) == ["field-missing"] * 2
