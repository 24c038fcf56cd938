"""Answers that are JSON: fields, spans, and schemas."""

import json

import pytest

from kivnun.errors import UserError
from kivnun.evaluation.corpus_metrics import corpus_metric, per_field
from kivnun.evaluation.json_answers import (
    field_f1,
    field_overlap,
    keeps_schema,
    make_validator,
    read_items,
    read_schema,
)
from kivnun.evaluation.row_metrics import row_metric
from kivnun.evaluation.spans import Item

REFERENCE = '{"city": "חיפה", "people": 3, "stops": ["A", "B"], "who": {"name": "Dana"}}'


def spans(*found):
    return json.dumps([dict(zip(("label", "text", "start", "end"), each, strict=False)) for each in found])


def test_fields_are_named_by_their_place_and_lists_have_several_values():
    assert read_items(REFERENCE) == [
        Item("city", "חיפה"),
        Item("people", "3"),
        Item("stops", "A"),
        Item("stops", "B"),
        Item("who.name", "Dana"),
    ]


def test_field_f1_by_hand():
    # 3 of 4 given are right, 3 of 5 expected are found.
    answer = '{"city": "חיפה", "people": 3.0, "stops": ["B"], "who": {"name": "Dan"}}'
    assert field_f1(answer, REFERENCE) == pytest.approx(2 * 3 / 9)
    assert row_metric("fields_right", answer, [REFERENCE]) == 0


def test_order_of_keys_and_lists_spaces_fences_and_nulls_do_not_matter():
    answer = '```json\n{"stops": ["B", "A"], "who": {"name": " Dana "}, "people": 3, "city": "חיפה", "zip": null}\n```'
    assert row_metric("fields_right", answer, [REFERENCE]) == 1
    assert row_metric("json_valid", answer, [REFERENCE]) == 0  # a program that reads it would fail


@pytest.mark.parametrize("answer", ["", "Haifa", '{"city": ', '"text"', "NaN", '{"a": NaN}', "[" * 5000])
def test_what_is_no_json_object_has_no_field(answer):
    assert field_f1(answer, REFERENCE) == 0
    assert field_overlap(answer, REFERENCE) == 0
    assert row_metric("fields_right", answer, ["{}"]) == 0


def test_nothing_to_find_and_nothing_found_is_right():
    assert field_f1("[]", "[]") == field_overlap("{}", "{}") == 1
    assert field_f1('{"a": 1}', "{}") == 0


def test_spans_count_whole_where_text_and_place_are_the_same():
    reference = spans(("PER", "Dana", 0, 4), ("LOC", "Haifa", 14, 19))
    assert field_f1(spans(("PER", "Dana", 0, 4), ("LOC", "Haifa", 30, 35)), reference) == 0.5
    # Without places the words alone are compared.
    assert field_f1(spans(("LOC", "Haifa"), ("PER", "Dana")), reference) == 1
    assert field_f1(spans(("LOC", "Dana"), ("PER", "Haifa")), reference) == 0


def test_spans_that_overlap_count_by_what_they_share():
    reference = spans(("PER", "Dana Levi", 0, 9))
    assert field_f1(spans(("PER", "Dana", 0, 4)), reference) == 0
    assert field_overlap(spans(("PER", "Dana", 0, 4)), reference) == pytest.approx(2 * 4 / 13)
    assert field_overlap(spans(("PER", "Dana")), reference) == pytest.approx(2 / 3)  # words: 1 of 1 and 1 of 2
    assert field_overlap(spans(("LOC", "Dana", 0, 4)), reference) == 0


def test_an_item_is_paired_once_and_with_the_one_it_shares_most_with():
    reference = spans(("PER", "Dana Levi"), ("PER", "Dana"))
    assert field_overlap(spans(("PER", "Dana")), reference) == pytest.approx(2 * 1 / 3)


def test_micro_f1_pays_for_fields_that_are_made_up_and_macro_f1_is_of_the_fields_that_there_are():
    answers, references = ['{"a": 1, "x": 2}', '{"a": 1}'], [['{"a": 1}'], ['{"b": 1}']]
    options = {"seed": 0, "resamples": 100}
    assert corpus_metric("field_f1_micro", answers, references, (), **options).value == pytest.approx(2 / 5)
    assert corpus_metric("field_f1_macro", answers, references, (), **options).value == pytest.approx((2 / 3 + 0) / 2)
    assert per_field(answers, references) == {"a": (1, 1), "b": (0, 1)}


def test_a_schema_is_kept_or_not(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}', "utf-8")
    validator = make_validator(read_schema(str(path)))
    answers = ['{"city": "חיפה"}', '{"city": 3}', "{}", "Haifa", '```json\n{"city": "x"}\n```']
    assert [keeps_schema(answer, validator) for answer in answers] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[]", "no JSON object"),
        ('{"type": "objekt"}', "invalid at type"),
    ],
)
def test_a_schema_that_is_none_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=words) as caught:
        read_schema(str(path))
    assert caught.value.code == "evaluation-invalid"
    assert "schema.json" in caught.value.problem


def test_a_schema_that_refers_to_the_network_is_refused_and_nothing_is_fetched():
    validator = make_validator({"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(UserError, match="which it does not hold"):
        keeps_schema("{}", validator)


def test_lists_that_are_too_deep_are_wrong_and_end_nothing():
    deep = "[" * 1000 + "1" + "]" * 1000
    assert row_metric("field_f1", deep, [REFERENCE]) == 0
    assert row_metric("field_overlap", deep, [REFERENCE]) == 0
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert keeps_schema(deep, make_validator(schema)) == 0
