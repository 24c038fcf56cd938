"""Templates and messages: where the answer begins, and what is refused."""

from pathlib import Path

import pytest
from jinja2 import TemplateError
from tiny_data import refusal, section

from kivnun.data.conversation import Conversation, Message
from kivnun.data.template import (
    PromptTemplate,
    Segment,
    choose_template,
    load_template,
    render,
    split_text_template,
)


def chat(*turns: tuple[str, bool]) -> Conversation:
    """Turns of user and assistant by turns; the flag says whether an assistant's turn is trained."""
    roles = ("user", "assistant")
    messages = (Message(roles[index % 2], text, trained) for index, (text, trained) in enumerate(turns))
    return Conversation(tuple(messages), {}, "a.jsonl:1")


def chatml(turns, open_turn: bool, tools=()) -> str:
    text = "".join(f"<{turn['role']}>{turn['content']}<end>\n" for turn in turns)
    return text + "<assistant>" * open_turn


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("{a} -> {b}", "{a} -> ", "{b}"),
        ("Say {a}, then {b} and {c}.\n", "Say {a}, then {b} and ", "{c}.\n"),
        ("{a}{b}", "{a}", "{b}"),
        ("{{x}} {a} {b} {{b}}", "{{x}} {a} ", "{b} {{b}}"),
        ("{{a}} {a}: {b}}}", "{{a}} {a}: ", "{b}}}"),
        ("משפט: {טקסט}\nרגש: {רגש}", "משפט: {טקסט}\nרגש: ", "{רגש}"),
    ],
)
def test_a_text_template_is_cut_at_its_last_field(text: str, prompt: str, answer: str) -> None:
    assert split_text_template(text) == (prompt, answer)


@pytest.mark.parametrize("text", ["no field", "{only}", "{{a}} {b}"])
def test_a_text_template_needs_a_prompt_and_an_answer(text: str) -> None:
    assert refusal(lambda: split_text_template(text)).code == "template-field"


def test_fields_are_filled_in_as_they_stand() -> None:
    template = PromptTemplate("text", "{{{a}}} {a.b} {0}: ", "{b}!")
    fields = {"a": "{b}", "a.b": "מ{}", "0": "zero", "b": "100%"}
    assert template.fields == ("a", "a.b", "0", "b")
    assert template.render_prompt(fields) == "{{b}} מ{} zero: "
    assert template.render_answer(fields) == "100%!"


def test_a_prompt_without_its_fields_names_them() -> None:
    error = refusal(lambda: PromptTemplate("text", "{a} {b} {c}", "{d}").render_prompt({"b": "x"}))
    assert error.code == "template-field"
    assert error.problem == "the prompt needs a, c"


@pytest.mark.parametrize(
    ("values", "template"),
    [
        ({"text_template": "Q {q} A {a}"}, PromptTemplate("text", "Q {q} A ", "{a}")),
        ({"prompt_template": "{q}?", "answer_template": "{a}."}, PromptTemplate("text", "{q}?", "{a}.")),
        ({}, PromptTemplate("chat", column="messages")),
        ({"messages": "talk"}, PromptTemplate("chat", column="talk")),
    ],
)
def test_the_recipe_chooses_the_template(values: dict[str, str], template: PromptTemplate) -> None:
    assert choose_template(section(**values), "supervised", ["q", "a", "messages", "talk"]) == template


def test_a_column_that_is_not_there_is_named_with_file_and_columns() -> None:
    data = section("tone.csv", text_template="{phrase} {tone}", value_names={"tone": {"0": "joy"}})
    error = refusal(lambda: choose_template(data, "supervised", ["text", "tone"]))
    assert error.code == "template-field"
    assert error.problem == "tone.csv: no column 'phrase'"
    assert error.details == ("'phrase' is named in the row's template", "columns: text, tone")


def test_a_template_is_kept_beside_the_model(tmp_path: Path) -> None:
    template = PromptTemplate("text", "שאלה: {q}\n", "{a}")
    template.save(tmp_path)
    assert load_template(tmp_path) == template
    assert "שאלה" in (tmp_path / "template.json").read_text("utf-8")


def test_names_of_codes_are_kept_with_the_template_and_old_templates_have_none(tmp_path: Path) -> None:
    data = section(text_template="{q} {a}", value_names={"q": {"0": "zero"}}, split={"stratify_by": "a"})
    template = choose_template(data, "supervised", ["q", "a"])
    template.save(tmp_path)
    assert load_template(tmp_path) == template
    assert load_template(tmp_path).render_prompt({"q": "0"}) == "zero "
    (tmp_path / "template.json").write_text('{"kind": "text", "prompt": "{q} ", "answer": "{a}", "column": "messages"}')
    assert load_template(tmp_path).render_prompt({"q": "0"}) == "0 "


def test_a_model_without_a_template_is_a_chat_model(tmp_path: Path) -> None:
    assert load_template(tmp_path) == PromptTemplate("chat")


def test_every_trained_turn_is_a_segment_of_its_own() -> None:
    conversation = chat(
        ("one", False), ("two", True), ("three", False), ("four", False), ("five", False), ("six", True)
    )
    segments = render(conversation, PromptTemplate("chat"), end="<eos>", render_chat=chatml)
    assert [segment.text for segment in segments if segment.trained] == ["two<end>", "six<end>"]
    assert "".join(segment.text for segment in segments) == chatml(
        [{"role": turn.role, "content": turn.content} for turn in conversation.messages], open_turn=False
    )


def test_an_answer_of_a_text_template_ends_with_the_end_of_text() -> None:
    conversation = chat(("prompt ", False), ("answer", True))
    segments = render(conversation, PromptTemplate("text"), end="<eos>", render_chat=chatml)
    assert segments == [Segment("prompt ", trained=False), Segment("answer<eos>", trained=True)]


def test_a_chat_template_that_rewrites_earlier_turns_is_refused() -> None:
    def forgetful(turns, open_turn: bool, tools) -> str:
        return chatml(turns[-2:], open_turn)

    turns = chat(("one", False), ("two", True), ("three", False), ("four", True))
    error = refusal(lambda: render(turns, PromptTemplate("chat"), end="", render_chat=forgetful))
    assert error.code == "messages-invalid"
    assert error.problem.startswith("a.jsonl:1: the model's chat template changes earlier turns when turn 4")


def test_a_chat_template_that_refuses_the_turns_says_so_with_the_row() -> None:
    def strict(turns, open_turn: bool, tools) -> str:
        raise TemplateError("roles must alternate")

    error = refusal(lambda: render(chat(("a", False), ("b", True)), PromptTemplate("chat"), end="", render_chat=strict))
    assert error.code == "messages-invalid"
    assert error.problem == "a.jsonl:1: the model's chat template refuses the turns: roles must alternate"


def test_the_answer_is_the_last_turn_that_is_trained() -> None:
    conversation = chat(("one", False), ("two", True), ("three", False), ("four", False))
    assert conversation.answer == "two"


def test_the_hash_of_a_row_follows_what_is_said_and_learnt_only() -> None:
    row = chat(("one", False), ("two", True))
    same = Conversation(row.messages, {"unused": "x"}, "b.csv:9")
    assert row.content_hash == same.content_hash
    assert row.content_hash != chat(("one", False), ("two", False)).content_hash
    assert row.content_hash != chat(("one", False), ("two ", True)).content_hash
