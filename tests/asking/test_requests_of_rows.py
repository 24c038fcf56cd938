"""How rows become requests: the same words for every model, in the order that the contract says."""

import pytest

from kivnun.asking.rows import request_of, section_of
from kivnun.data.conversation import Conversation, Message
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError

TEXT = PromptTemplate("text", "Text: {phrase}\nTone: ", "{tone}")
CHAT = PromptTemplate("chat")


def text_row(phrase: str, tone: str) -> Conversation:
    prompt = Message("user", f"Text: {phrase}\nTone: ", trained=False)
    return Conversation((prompt, Message("assistant", tone, trained=True)), {}, "rows.jsonl:1")


def chat_row(*turns: tuple[str, str]) -> Conversation:
    messages = [Message(role, text, trained=False) for role, text in turns[:-1]]
    return Conversation((*messages, Message("assistant", turns[-1][1], trained=True)), {}, "rows.jsonl:1")


def test_a_text_request_is_instruction_examples_and_prompt_between_blank_lines() -> None:
    request = request_of(
        text_row("hi", "joy"),
        TEXT,
        instruction="Name the tone.",
        shots=(text_row("no", "anger"), text_row("ah", "joy")),
    )
    assert request.text == "Name the tone.\n\nText: no\nTone: anger\n\nText: ah\nTone: joy\n\nText: hi\nTone: "


def test_a_row_alone_is_asked_with_the_very_prompt_that_is_trained() -> None:
    assert request_of(text_row("hi", "joy"), TEXT).text == "Text: hi\nTone: "


def test_a_chat_request_shows_examples_as_turns_behind_the_instruction() -> None:
    request = request_of(
        chat_row(("system", "Own rule."), ("user", "2+2"), ("assistant", "4")),
        CHAT,
        instruction="Be short.",
        shots=(chat_row(("user", "1+1"), ("assistant", "2")),),
    )
    assert request.messages == (
        ("system", "Be short.\n\nOwn rule."),
        ("user", "1+1"),
        ("assistant", "2"),
        ("user", "2+2"),
    )
    assert request.text is None
    assert request.shared_messages == 0


def test_what_stands_in_every_request_alike_is_marked_as_shared() -> None:
    row, shots = chat_row(("user", "2+2"), ("assistant", "4")), (chat_row(("user", "1+1"), ("assistant", "2")),)
    assert request_of(row, CHAT, instruction="Be short.", shots=shots).shared_messages == 3
    assert request_of(row, CHAT).shared_messages == 0


def test_passages_stand_inside_the_last_message_and_inside_the_text() -> None:
    context = ("[1] It rains.\n", "{passages}\n{prompt}")
    chat = request_of(chat_row(("user", "Weather?"), ("assistant", "rain")), CHAT, context=context)
    assert chat.messages[-1] == ("user", "[1] It rains.\n\nWeather?")
    text = request_of(text_row("hi", "joy"), TEXT, context=context)
    assert text.text == "[1] It rains.\n\nText: hi\nTone: "


def test_earlier_turns_of_a_row_are_kept_and_its_answer_is_not() -> None:
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "the answer"))
    assert request_of(chat_row(*turns), CHAT).messages == turns[:-1]


def test_running_text_and_rows_that_ask_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="running text"):
        request_of(text_row("a", "b"), PromptTemplate("document", column="text"))
    with pytest.raises(UserError, match="no user turn"):
        request_of(chat_row(("system", "a"), ("assistant", "b")), CHAT)


def test_a_template_with_named_codes_reads_a_file_as_the_model_was_trained() -> None:
    template = PromptTemplate("text", "T: {a}\n", "{b}", value_names={"b": {"0": "no", "1": "yes"}})
    section = section_of("rows.csv", template)
    assert (section.prompt_template, section.answer_template) == ("T: {a}\n", "{b}")
    assert section.value_names["b"]["1"] == "yes"
    assert (section.split.validation, section.split.test) == (0, 0)
