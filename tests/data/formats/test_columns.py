import pytest
from conversations import codes, losses, say, write_and_read

from kivnun.data.conversation import Conversation
from kivnun.data.formats.columns import COLUMNS, columns_format, recognise_columns
from kivnun.data.rows import Row


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["text", "category"], ("text", "category")),
        (["id", "Text", "LABEL"], ("Text", "LABEL")),
        (["comment", "label"], ("comment", "label")),
        (["question", "answer", "category"], ("question", "answer")),
        (["instruction", "context", "response", "category"], ("instruction", "response")),
        (["mr", "ref", "fixed", "orig_mr"], ("mr", "ref")),
        (["cm", "nl"], ("nl", "cm")),
        (["source", "target"], ("source", "target")),
        (["שאלה", "תשובה"], ("שאלה", "תשובה")),
        (["טקסט", "תווית"], ("טקסט", "תווית")),
        (["column_1", "column_2"], ("column_1", "column_2")),
        (["column_1", "column_2", "column_3"], None),
        (["text"], None),
        (["name", "sections"], None),
        (["text", "label", "prompt", "answer"], ("prompt", "answer")),
        ([], None),
    ],
)
def test_known_pairs_of_columns_are_recognised(names: list[str], pair: tuple[str, str] | None) -> None:
    assert recognise_columns(names) == pair
    assert (COLUMNS.recognise(dict.fromkeys(names, "x")) is not None) == (pair is not None)


def test_one_column_is_asked_and_the_other_learnt_and_the_rest_is_kept() -> None:
    row = Row({"text": "ממש כואב", "label": 0, "id": 7, "note": None}, "rows.tsv", 4)
    got = COLUMNS.read(row)
    assert got.messages == (say("user", "ממש כואב"), say("assistant", "0"))
    assert (got.extra, got.where) == ({"id": 7}, "rows.tsv:4")
    assert got.fields == {"text": "ממש כואב", "label": "0", "id": "7"}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"question": "איפה?", "context": "בחיפה.", "answer": "שם"}, "בחיפה.\n\nאיפה?"),
        ({"instruction": "סכם", "context": "סיפור", "response": "שם"}, "סכם\n\nסיפור"),
        ({"instruction": "סכם", "context": "", "response": "שם"}, "סכם"),
        ({"instruction": "סכם", "context": None, "response": "שם"}, "סכם"),
    ],
)
def test_a_context_joins_what_is_asked(fields: dict[str, object], asked: str) -> None:
    got = COLUMNS.read(Row(fields, "a", 1))
    assert got.messages == (say("user", asked), say("assistant", "שם"))
    assert got.extra == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "a", "label": None}, ["field-null"]),
        ({"text": ["a"], "label": {"b": 1}}, ["field-type", "field-type"]),
        ({"other": 1}, ["field-missing", "field-missing"]),
    ],
)
def test_a_cell_that_is_no_text_is_refused(fields: dict[str, object], expected: list[str]) -> None:
    assert codes(COLUMNS, fields) == expected


def test_columns_of_any_name_can_be_named() -> None:
    format_ = columns_format("ביטוי", "טון")
    assert format_.name == "columns"
    assert format_.recognise({"ביטוי": "a", "טון": "b"})
    assert format_.recognise({"ביטוי": "a"}) is None
    got = format_.read(Row({"ביטוי": "הגעתי!", "טון": "שמחה", "label": "x"}, "a", 1))
    assert got.messages == (say("user", "הגעתי!"), say("assistant", "שמחה"))
    assert got.extra == {"label": "x"}
    assert format_.write is not None
    assert format_.write(got) == {"ביטוי": "הגעתי!", "טון": "שמחה", "label": "x"}


def test_a_further_column_that_would_take_the_place_of_one_of_the_two_is_a_loss() -> None:
    row = Conversation((say("user", "a"), say("assistant", "b")), {}, "a:1", extra={"answer": "c"})
    assert len(losses(COLUMNS, row)) == 1
    other = Conversation(row.messages, {}, "a:1", extra={"label": "c", "text": "d"})
    assert write_and_read(COLUMNS, other).extra == other.extra
