import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation
from kivnun.data.findings import CHECKS, RowError
from kivnun.data.formats.fields import (
    Problems,
    parse_cell,
    read_bool,
    read_list,
    read_object,
    read_optional_text,
    refuse_losses,
    show,
    text_fields,
)


def test_plain_values_are_fields_as_text() -> None:
    fields = {"a": "שלום", "b": 1, "c": 2.5, "d": True, "e": None, "f": [1], "g": {}}
    assert text_fields(fields) == {"a": "שלום", "b": "1", "c": "2.5", "d": "true"}


@given(text=st.text())
def test_a_cell_is_never_lost(text: str) -> None:
    value = parse_cell(text)
    assert value is text or isinstance(value, list | dict)


@pytest.mark.parametrize("deep", ["[" * 201 + "]" * 201, '{"a":' * 900 + "1" + "}" * 900, "[" * 50_000])
def test_a_cell_that_could_not_be_written_again_stays_text(deep: str) -> None:
    assert parse_cell(deep) is deep
    assert parse_cell("[" * 200 + "]" * 200) != "[" * 200 + "]" * 200


def test_cells_hold_lists_and_objects_as_json_text() -> None:
    problems: Problems = []
    cells = {"a": " [1]", "b": '{"x": 1}', "c": "[1", "d": "", "e": None, "f": "TRUE"}
    assert (read_list(cells, "a", problems), read_object(cells, "b", problems)) == ([1], {"x": 1})
    assert (read_list(cells, "d", problems), read_list(cells, "e", problems)) == ([], [])
    assert read_bool(cells, "f", problems) is True
    assert (read_bool(cells, "d", problems), read_bool(cells, "none", problems)) == (None, None)
    assert read_optional_text(cells, "e", problems) == ""
    assert problems == []
    assert read_list(cells, "c", problems) == []
    assert read_object(cells, "a", problems) == {}
    assert read_object(cells, "none", problems) == {}
    assert read_bool(cells, "c", problems) is None
    assert [code for code, _ in problems] == ["field-type", "field-type", "field-missing", "field-type"]
    assert {code for code, _ in problems} <= set(CHECKS)


def test_long_values_are_shown_in_short() -> None:
    assert (show("x"), len(show("א" * 1000))) == ("'x'", 60)


@pytest.mark.parametrize(
    ("where", "file", "line"), [("a.jsonl:7", "a.jsonl", 7), ("C:\\a.jsonl:7", "C:\\a.jsonl", 7), ("here", "here", 0)]
)
def test_a_loss_names_the_row(where: str, file: str, line: int) -> None:
    with pytest.raises(RowError) as caught:
        refuse_losses(Conversation((), {}, where), ["x"])
    assert [(finding.file, finding.line) for finding in caught.value.findings] == [(file, line)]
