"""Whatever stands in a row, it is read or refused with codes that are known; nothing else is raised."""

import copy
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conversations import any_conversations, codes, json_values, losses, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation
from kivnun.data.formats import FORMATS, detect_format
from kivnun.data.formats.fields import parse_cell
from kivnun.data.rows import Row
from kivnun.errors import UserError

KEYS = (
    *("messages", "conversations", "contents", "role", "from", "author", "content", "value", "parts", "text", "weight"),
    *("tool_calls", "function", "name", "arguments", "tools", "functions", "function_call", "image_url", "url", "type"),
    *("prompt", "completion", "completions", "chosen", "rejected", "label", "input", "preferred_output", "instruction"),
    *("non_preferred_output", "output", "system", "systemInstruction", "history", "input_text", "output_text", "score"),
    *("context", "generation", "reward", "definition", "question", "answers", "intent", "slots", "mime_type", "detail"),
)
WORDS = (
    "user",
    "assistant",
    "model",
    "human",
    "gpt",
    "function_call",
    "tool",
    "image_url",
    "text",
    "function",
    "[",
    "{}",
)

values = st.recursive(
    json_values | st.sampled_from(WORDS) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
fields = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(row=fields)
def test_any_fields_are_read_or_refused(name: str, row: dict[str, object]) -> None:
    format_ = FORMATS[name]
    assert format_.recognise(row) is None or isinstance(format_.recognise(row), str)
    codes(format_, row)


@pytest.mark.parametrize("name", [name for name, format_ in FORMATS.items() if format_.write])
@settings(max_examples=30)
@given(conversation=any_conversations(), data=st.data())
def test_a_row_with_any_value_replaced_is_read_or_refused(
    name: str, conversation: Conversation, data: st.DataObject
) -> None:
    format_ = FORMATS[name]
    if format_.write is None or losses(format_, conversation):
        return
    row = copy.deepcopy(format_.write(conversation))
    holder, key = data.draw(st.sampled_from(list(places(row))))
    holder[key] = data.draw(values)
    format_.recognise(row)
    codes(format_, row)


def places(value: object) -> Iterator[tuple[dict[str, object] | list[object], str | int]]:
    """Every place of a value inside lists and objects, with what holds it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from places(inner)


@given(rows=st.lists(fields, max_size=3))
def test_any_rows_are_detected_or_refused(rows: list[dict[str, object]]) -> None:
    with suppress(UserError):
        detect_format([Row(row, "rows.jsonl", line) for line, row in enumerate(rows, start=1)])


@given(text=texts.map("[{".__add__))
def test_cells_that_only_begin_like_json_stay_texts(text: str) -> None:
    assert isinstance(parse_cell(text), str | list)


@pytest.mark.parametrize("name", FORMATS)
def test_deep_nesting_is_no_crash(name: str) -> None:
    deep: list[object] = []
    for _ in range(990):
        deep = [deep]
    turn = {"role": "assistant", "content": deep, "tool_calls": [{"function": {"name": "f", "arguments": {"a": deep}}}]}
    for value in ("[" * 50_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, deep, [turn]):
        codes(FORMATS[name], dict.fromkeys(KEYS, value))
        FORMATS[name].recognise(dict.fromkeys(KEYS, value))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("speaker", [["user"], {"a": 1}, 5, None])
def test_a_speaker_that_is_no_text_is_no_crash(name: str, speaker: object) -> None:
    turn = dict.fromkeys(("role", "from", "author"), speaker) | {"content": "x", "value": "x", "parts": [{"text": "x"}]}
    row: dict[str, object] = {"system": "s"}
    row |= {key: [turn] for key in ("messages", "conversations", "contents", "chosen", "context")}
    FORMATS[name].recognise(row)
    codes(FORMATS[name], row)
