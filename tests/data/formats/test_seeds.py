"""The shapes of the seeds' snippets, and of Gemini 1.0."""

import pytest
from conversations import codes, losses, say
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.seeds import GEMINI_1_0, PALM_CHAT, PALM_TEXT
from kivnun.data.rows import Row

HELLO = "היי! מה תמליץ לארוחת ערב?"
PASTA = "ערב טוב! היום יום מצוין לפסטה קרבונרה."


def row(*messages: Message, **more: object) -> Conversation:
    return Conversation(messages, {}, "rows.jsonl:3", **more)  # type: ignore[arg-type]


def test_input_and_output_text_are_a_question_and_its_answer() -> None:
    got = PALM_TEXT.read(Row({"input_text": HELLO, "output_text": PASTA, "id": 3}, "a.jsonl", 1))
    assert got.messages == (say("user", HELLO), say("assistant", PASTA))
    assert got.extra == {"id": 3}
    assert got.fields == {"input_text": HELLO, "output_text": PASTA, "id": "3"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input_text": HELLO}, ["field-missing"]),
        ({"input_text": None, "output_text": []}, ["field-null", "field-type"]),
        ({}, ["field-missing", "field-missing"]),
    ],
)
def test_both_texts_must_be_there(fields: dict[str, object], expected: list[str]) -> None:
    assert codes(PALM_TEXT, fields) == expected


@given(author=st.sampled_from(["model", "bot", "assistant"]), context=st.sampled_from([None, "", "ענה בעברית"]))
def test_authors_become_roles_and_the_context_the_system_turn(author: str, context: str | None) -> None:
    turns = [{"author": "user", "content": HELLO}, {"author": author, "content": PASTA}]
    got = PALM_CHAT.read(Row({"context": context, "messages": turns}, "a.jsonl", 1))
    system = (say("system", context),) if context else ()
    assert got.messages == (*system, say("user", HELLO), say("assistant", PASTA))


def test_gemini_1_has_system_turns_and_the_role_model() -> None:
    turns = [
        {"role": "system", "content": "ענה"},
        {"role": "user", "content": HELLO},
        {"role": "model", "content": PASTA},
    ]
    got = GEMINI_1_0.read(Row({"messages": turns}, "a.jsonl", 1))
    assert got.messages == (say("system", "ענה"), say("user", HELLO), say("assistant", PASTA))
    assert GEMINI_1_0.write is not None
    assert GEMINI_1_0.write(got) == {"messages": turns}


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ("היי", "message-type"),
        ({"author": "modle", "content": HELLO}, "role-unknown"),
        ({"role": "user", "content": HELLO}, "role-unknown"),
        ({"author": "user"}, "content-missing"),
        ({"author": "user", "content": 7}, "content-type"),
        ({"author": "user", "content": HELLO, "mood": "good"}, "field-unknown"),
    ],
)
def test_a_turn_that_is_not_one_of_these_is_refused(turn: object, code: str) -> None:
    assert code in codes(PALM_CHAT, {"messages": [turn]})


@pytest.mark.parametrize(
    ("value", "code"), [(None, "field-null"), ([], "messages-empty"), ("[]", "messages-empty"), ("היי", "field-type")]
)
def test_a_chat_without_turns_is_refused(value: object, code: str) -> None:
    assert codes(PALM_CHAT, {"messages": value}) == codes(GEMINI_1_0, {"messages": value}) == [code]


@pytest.mark.parametrize(
    "conversation",
    [
        row(say("system", "s"), say("user", "a"), say("assistant", "b")),
        row(say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")),
        row(say("user", "a"), Message("assistant", "b", trained=False)),
        row(say("assistant", "b"), say("user", "a")),
        row(say("assistant", "b")),
        row(),
        row(say("user", "a"), say("assistant", "b"), extra={"id": 1}),
        row(say("user", "a"), say("assistant", "b"), desirable=False),
    ],
)
def test_two_texts_hold_one_question_and_one_learnt_answer_only(conversation: Conversation) -> None:
    assert losses(PALM_TEXT, conversation)


def test_an_empty_context_cannot_be_told_from_none() -> None:
    assert losses(PALM_CHAT, row(say("system", ""), say("user", "a"), say("assistant", "b")))


def test_only_gemini_1_holds_a_system_turn_that_is_not_the_first() -> None:
    late = row(say("user", "a"), say("system", "s"), say("assistant", "b"))
    assert losses(PALM_CHAT, late)
    assert losses(GEMINI_1_0, late) == []
