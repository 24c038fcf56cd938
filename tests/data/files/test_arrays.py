"""JSON arrays and the layouts of known collections: rows with the line on which each begins, in bounded memory."""

import json
from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in, said_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivnun.data.files.scanner import JsonFaultError, JsonScanner

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


def in_pieces(data: bytes, size: int) -> JsonScanner:
    return JsonScanner(iter([data[place : place + size] for place in range(0, len(data), size)]))


@given(
    elements=st.lists(values, max_size=6),
    indent=st.none() | st.integers(0, 3),
    is_ascii=st.booleans(),
    size=st.integers(1, 30),
)
def test_elements_are_cut_where_they_begin_and_end_in_pieces_of_any_size(
    elements: list[object], indent: int | None, *, is_ascii: bool, size: int
) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=is_ascii)
    data = text.encode()
    scanner = in_pieces(data, size)
    found = []
    for _ in scanner.elements():
        value = scanner.take_value()
        assert data[value.offset :].startswith(value.text)
        assert value.line == data[: value.offset].count(b"\n") + 1
        found.append(json.loads(value.text))
    assert found == elements
    assert scanner.peek() == b""
    assert scanner.faults == []


@given(data=st.binary(max_size=60), size=st.integers(1, 10))
def test_no_bytes_at_all_bring_the_scanner_to_a_halt(data: bytes, size: int) -> None:
    scanner = in_pieces(b"[" + data, size)
    lines = range(1, data.count(b"\n") + 2)
    try:
        for _ in scanner.elements():
            assert scanner.take_value().line in lines
    except JsonFaultError as error:
        lines.index(error.line)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(rows=st.lists(objects, min_size=1, max_size=6), indent=st.none() | st.integers(0, 3))
def test_an_array_gives_the_rows_that_were_written(
    tmp_path: Path, rows: list[dict[str, object]], indent: int | None
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), "utf-8", newline="")
    items = read_all(tmp_path / "a.json")
    assert fields_in(items) == rows
    assert found_in(items) == []


def test_a_row_of_an_array_is_named_by_the_line_on_which_it_begins(here: Path) -> None:
    (here / "a.json").write_text('\n[\n {"a": 1}, {"a":\n 2},\n\n{"a": "שלום"}\n]\n', "utf-8")
    assert [row.where for row in rows_in(read_all("a.json"))] == ["a.json:3", "a.json:3", "a.json:6"]


def test_a_long_array_is_read_one_element_at_a_time(here: Path) -> None:
    rows = [{"number": number, "text": 'a "quoted" {word} \\ ' * (number % 50)} for number in range(4000)]
    (here / "a.json").write_text(json.dumps(rows, indent=2), "utf-8")
    items = rows_in(read_all("a.json"))
    assert [dict(row.fields) for row in items] == rows
    assert [row.line for row in items] == [2 + 4 * number for number in range(4000)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '[{"א": "ב"},\n{"a": },\n{"a": 2}]',
            ['a.json:2: unexpected character, expected a JSON value (column 7): {"a": }'],
        ),
        ('[{"a": 1},\n7,\n"x",\nnull,\n[1]]', ["a.json:2: expected an object {...}, got 7"]),
        ('[{"a": 1}\n{"a": 2}]', ["a.json:2: a comma is missing before this element"]),
        ('[{"a": 1},\n{"a": 2},\n]', ["a.json:2: a comma stands before the ] that ends the array"]),
        ('[{"a": 1},\n{"a": 2}', ["a.json:2: expected , but found the end of the file"]),
        ('[{"a": 1},\n{"a": "2}]', ["a.json:2: what begins here never ends"]),
        ('[{"a": 1},\n{"a": {"b": 2}]\n', ["a.json:2: ", "a.json:3: expected , but found the end of the file"]),
        ('[{"a": 1}]\n{"a": 2}', ["a.json:2: something follows the end of the array or object"]),
        ('[{"a": 1};\n{"a": 2}]', ["a.json:1: expected , but found ;"]),
        ('[{"a": 1},\n,{"a": 2}]', ["a.json:2: expected a value but found ,"]),
        ('[{"a": 1},\n{"a": "\\ud800"}]', ["no low surrogate in string"]),
        ('[{"a": 1},\n{\n "a": 1,\n "a": 2}]', ["a.json:2: the key 'a' stands twice in one object"]),
        ('[{"a": 1},\n{\n "a": 1,\n "b": oops}]', ["a.json:4: unexpected character, expected a JSON value (column 7)"]),
        ('{"a": 1}', ["a.json: expected an array of objects, got dict"]),
        ('"a"', ["a.json: expected an array of objects, got str"]),
        ("oops", ["a.json:1: expected [ but found o"]),
        ("[]", ["a.json: no rows"]),
        ("", ["a.json: no rows"]),
    ],
)
def test_a_fault_is_named_with_its_line_and_the_rows_before_it_are_read(
    here: Path, text: str, found: list[str]
) -> None:
    (here / "a.json").write_text(text, "utf-8")
    items = read_all("a.json")
    said = said_in(items)
    assert len(said) >= len(found)
    assert all(part in whole for part, whole in zip(found, said, strict=False))
    if text.startswith("[{"):
        assert rows_in(items)[0].line == 1


def test_behind_a_broken_element_reading_goes_on(here: Path) -> None:
    (here / "a.json").write_text('[{"a": 1},\n{"a" 2},\n{"a": \n[1,,2]},\n{"a": 3}\n{"a": 4}]', "utf-8")
    items = read_all("a.json")
    assert fields_in(items) == [{"a": 1}, {"a": 3}, {"a": 4}]
    assert found_in(items) == [("json-syntax", 2), ("json-syntax", 4), ("json-syntax", 6)]


def test_a_missing_quote_spoils_one_element_where_values_stand_on_lines_of_their_own(here: Path) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    (here / "a.json").write_text(json.dumps(rows, indent=1).replace('"y"', '"y'), "utf-8")
    items = read_all("a.json")
    assert fields_in(items) == [rows[0], rows[2]]
    assert found_in(items) == [("json-syntax", 8)]


def test_a_value_without_end_is_refused_in_bounded_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kivnun.data.files.scanner.MAX_VALUE_BYTES", 1 << 20)
    (here / "a.json").write_bytes(b'[{"a": 1},\n{"a": "' + b"x" * (12 << 20) + b'"}]')
    items = read_all("a.json")
    assert fields_in(items) == [{"a": 1}]
    assert said_in(items) == ["a.json:2: a value is longer than 1 MiB"]


def test_rows_under_a_key_of_an_object_are_read(here: Path) -> None:
    (here / "a.json").write_text(
        '{"version": "1", "tags": ["x"],\n"examples": [\n{"a": 1},\n{"a": "ב"}],\n"n": 2}', "utf-8"
    )
    items = read_all("a.json")
    assert fields_in(items) == [{"a": 1}, {"a": "ב"}]
    assert [row.line for row in rows_in(items)] == [3, 4]
    assert found_in(items) == []


def test_a_second_list_of_rows_is_not_passed_over_in_silence(here: Path) -> None:
    (here / "a.json").write_text('{"train": [{"a": 1}],\n"test": [{"a": 2}]}', "utf-8")
    items = read_all("a.json")
    assert said_in(items) == ["a.json:2: a second list of objects, 'test', beside 'train': its rows are not read"]
    assert fields_in(items) == [{"a": 1}]


TASK = {
    "Contributors": ["Somebody"],
    "Instances": [
        {"id": "t-1", "input": "צרפת", "output": ["פריז"]},
        {"id": "t-2", "input": "?", "output": ["a", "b"]},
    ],
    "Definition": ["Name the capital.", "In one word."],
    "Positive Examples": [{"input": "Italy", "output": "Rome", "explanation": "It is."}],
    "Negative Examples": [],
}


@pytest.mark.parametrize("keys", [list(TASK), sorted(TASK)], ids=["definition behind", "definition before"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_instance_of_super_natural_instructions_has_its_task_with_it(
    here: Path, keys: list[str], indent: int | None
) -> None:
    (here / "task1_capital.json").write_text(json.dumps({key: TASK[key] for key in keys}, indent=indent), "utf-8")
    task = {
        "definition": "Name the capital.\nIn one word.",
        "positive_examples": TASK["Positive Examples"],
        "negative_examples": [],
        "task": "task1_capital",
    }
    items = read_all("task1_capital.json")
    assert fields_in(items) == [{**task, **instance} for instance in TASK["Instances"]]
    assert found_in(items) == []


def test_an_utterance_of_snips_is_a_text_with_slots(here: Path) -> None:
    parts = [
        {"text": "נגן את "},
        {"text": "שיר", "entity": "track"},
        {"text": " by "},
        {"text": "X", "entity": "artist"},
    ]
    text = json.dumps({"PlayMusic": [{"data": parts}, {"data": [{"text": "Play\n"}]}, {"no": 1}]}, indent=2)
    (here / "a.json").write_text(text, "utf-8")
    items = read_all("a.json")
    slots = [{"entity": "track", "value": "שיר", "start": 7}, {"entity": "artist", "value": "X", "start": 14}]
    assert fields_in(items) == [
        {"text": "נגן את שיר by X", "intent": "PlayMusic", "slots": slots},
        {"text": "Play\n", "intent": "PlayMusic", "slots": []},
    ]
    assert [row.line for row in rows_in(items)] == [3, 21]
    assert found_in(items) == [("field-type", 28)]


@pytest.mark.parametrize("turned", [False, True], ids=["context first", "questions first"])
def test_a_question_of_squad_has_its_paragraph_and_its_own_line(here: Path, turned: bool) -> None:
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Dana", "answer_start": 0}]},
        {"id": "2", "question": "איפה?", "answers": [], "is_impossible": True},
    ]
    paragraph: dict[str, object] = {"context": "Dana went home.", "qas": questions}
    paragraph = dict(reversed(paragraph.items())) if turned else paragraph
    article = {"paragraphs": [paragraph, {"context": "", "qas": []}], "title": "Dana"}
    text = json.dumps({"version": "1.1", "data": [article]}, indent=1, ensure_ascii=False)
    (here / "a.json").write_text(text, "utf-8")
    items = read_all("a.json")
    base = {"title": "Dana", "context": "Dana went home."}
    assert fields_in(items) == [
        {**base, "id": "1", "question": "Who?", "answers": {"text": ["Dana"], "answer_start": [0]}},
        {**base, "id": "2", "question": "איפה?", "answers": {"text": [], "answer_start": []}, "is_impossible": True},
    ]
    lines = text.split("\n")
    assert [lines[row.line].strip() for row in rows_in(items)] == ['"id": "1",', '"id": "2",']
    assert found_in(items) == []
