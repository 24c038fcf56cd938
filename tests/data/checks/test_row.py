"""A row is checked as a whole: nothing crashes, everything has a place, and real data raise few alarms."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talks import ask, codes, message, talk

from kivnun.data.checks.row import check_row
from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.findings import CHECKS
from kivnun.data.rows import Row

SHARED = Path(__file__).parents[4] / "shared" / "data"

TEXT = (
    st.text(max_size=40)
    | st.text(alphabet=st.characters(), max_size=10)
    | st.sampled_from(
        ["\ud800", "{{name}}", "0501234567", "a@b.co", "<br>", "שלום", "\0", "None", "×©×œ", '{"a": [1, null]}']
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SCHEMA = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "string", "dict"]),
        "properties": st.dictionaries(TEXT, JSON, max_size=2),
        "required": st.lists(TEXT, max_size=2),
        "$ref": st.sampled_from(["#", "#/nowhere", "http://127.0.0.1:9/x"]),
        "pattern": st.sampled_from(["[", "(a+)+$"]),
    },
)
FUNCTION = st.fixed_dictionaries({"name": TEXT | JSON, "parameters": SCHEMA | JSON})
TOOL = st.dictionaries(TEXT, JSON, max_size=2) | st.fixed_dictionaries({"type": JSON, "function": FUNCTION})
MESSAGE = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    content=TEXT,
    trained=st.booleans(),
    name=TEXT,
    tool_calls=st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT | JSON.map(json.dumps)), max_size=2).map(tuple),
    tool_call_id=TEXT,
    images=st.lists(st.builds(Image, st.integers(0, 9), TEXT, TEXT, TEXT), max_size=2).map(tuple),
)
CONVERSATION = st.builds(
    Conversation,
    messages=st.lists(MESSAGE, max_size=5).map(tuple),
    fields=st.dictionaries(TEXT, TEXT, max_size=3),
    where=TEXT,
    tools=st.lists(TOOL, max_size=2).map(tuple),
    rejected=st.none() | MESSAGE,
    extra=st.dictionaries(TEXT, JSON, max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(CONVERSATION, st.sampled_from(["", "openai-chat", "openai-reinforcement", "text", "prompt-completion"]))
def test_no_conversation_makes_a_check_crash(conversation: Conversation, format_name: str) -> None:
    for found in check_row(conversation, Row({}, "rows.jsonl", 3), format_name):
        assert found.code in CHECKS
        assert (found.file, found.line) == ("rows.jsonl", 3)
        assert found.message
        assert found.message.isprintable()
        assert len(found.message) < 500


def test_a_finding_stands_where_its_row_stands() -> None:
    (found,) = check_row(ask("What now?", ""), Row({}, "נתונים.jsonl", 12))
    assert found.where == "נתונים.jsonl:12"


def test_a_clean_row_has_no_findings() -> None:
    assert codes(talk(("system", "Be kind."), ("user", "מה שלומך היום?"), ("assistant", "Very well, thank you."))) == []


def test_everything_that_is_wrong_with_a_row_is_found_at_once() -> None:
    row = talk(("user", "Mail me: d@example.com &amp; 050-1234567"), ("assistant", "{{name}}\u200b "), ("user", "?"))
    assert codes(row) == [
        "order-last",
        "answer-whitespace",
        "text-invisible",
        "placeholder-text",
        "html-text",
        "personal-email",
        "personal-phone",
    ]


def test_signs_that_would_give_orders_to_a_terminal_are_spelt_out_in_messages() -> None:
    row = talk(
        ("user", "Hi?"), Message("assistant", "", trained=True, tool_calls=(ToolCall("", "a\x1b[2J\u202e", "{}"),))
    )
    assert message(row, "tool-unknown") == "turn 2 calls `a\\x1b[2J\\u202e`; declared: none"


def alarms(conversations: list[Conversation]) -> Counter[str]:
    """How many rows have each finding."""
    return Counter(code for conversation in conversations for code in set(codes(conversation)))


def shared_file(name: str) -> Path:
    """A file of the shared data, where this machine has it."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_good_english_rows_raise_hardly_an_alarm() -> None:
    lines = shared_file("gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[-2000:]]
    found = alarms([ask(row["question"], row["answer"]) for row in rows])
    assert found == {"text-invisible": 1}


def test_good_hebrew_rows_raise_alarms_only_for_their_real_phone_numbers() -> None:
    lines = shared_file("hebrew_sentiment/train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    found = alarms([ask(*line.split("\t")[:2]) for line in lines])
    assert found == {"personal-phone": 5}


def test_the_rows_of_openai_without_a_user_turn_are_found() -> None:
    lines = shared_file("openai_ft_samples/toy_chat_fine_tuning.jsonl").read_text(encoding="utf-8").splitlines()
    talks = [talk(*[(turn["role"], turn["content"]) for turn in json.loads(line)["messages"]]) for line in lines]
    assert alarms(talks) == {"order-no-user": 3}


def test_placeholders_of_the_identity_rows_are_found() -> None:
    rows = json.loads(shared_file("llamafactory_demos/identity.json").read_text(encoding="utf-8"))
    found = alarms([ask(row["instruction"], row["output"]) for row in rows])
    assert found.keys() == {"placeholder-text"}
    assert found["placeholder-text"] == sum("{{" in row["output"] for row in rows)
