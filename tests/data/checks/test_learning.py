"""A row teaches what it should."""

import pytest
from talks import WEATHER, ask, calls, codes, message, talk, turn

from kivnun.data.checks.learning import check_reference
from kivnun.data.conversation import Conversation


@pytest.mark.parametrize("answer", ["", "  ", "\n\t", "\u3000"])
def test_an_answer_of_nothing_or_white_space_is_empty(answer: str) -> None:
    assert codes(ask("What now?", answer)) == ["answer-empty"]


def test_an_empty_answer_says_how_it_is_empty() -> None:
    assert message(ask("What now?", ""), "answer-empty") == "turn 2 (assistant) is empty"
    spaces = message(ask("What now?", "   "), "answer-empty")
    assert spaces == "turn 2 (assistant) holds only 3 characters of white space"


def test_an_answer_of_calls_may_have_no_text() -> None:
    assert codes(talk(("user", "Weather?"), calls(("1", "get_weather", '{"city": "x"}')), tools=(WEATHER,))) == []


def test_an_empty_turn_that_is_not_learnt_passes() -> None:
    quiet = turn("assistant", "", trained=False)
    assert codes(talk(("user", "Hi."), quiet, ("user", "Well?"), ("assistant", "Hello!"))) == []


@pytest.mark.parametrize(
    ("answer", "where"), [(" Yes", "begins"), ("Yes\n", "ends"), ("\nYes ", "begins and ends"), ("Yes\u00a0", "ends")]
)
def test_white_space_around_an_answer_is_named(answer: str, where: str) -> None:
    assert message(ask("Now?", answer), "answer-whitespace") == f"turn 2 (assistant) {where} with white space"


def test_a_completion_rightly_begins_with_a_space() -> None:
    assert codes(ask("Now?", " Yes"), "prompt-completion") == []
    assert codes(ask("Now?", "\nYes"), "prompt-completion") == ["answer-whitespace"]
    assert codes(ask("Now?", " Yes"), "openai-chat") == ["answer-whitespace"]


def test_white_space_around_a_question_passes() -> None:
    assert codes(ask(" What now?\n", "Rest.")) == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is love?", "What is love?"), ("What  is\nlove?", "what is love?"), ("מה השעה עכשיו", "מה השעה  עכשיו")],
)
def test_an_answer_that_repeats_its_prompt_is_named(question: str, answer: str) -> None:
    assert codes(ask(question, answer)) == ["answer-copies-prompt"]


def test_one_word_may_be_its_own_answer() -> None:
    assert codes(ask("Paris", "Paris")) == []


def test_an_answer_that_begins_like_its_prompt_passes() -> None:
    assert codes(ask("The capital of France", "The capital of France is Paris.")) == []


def test_a_row_whose_answers_all_have_weight_zero_teaches_nothing() -> None:
    assert codes(talk(("user", "Now?"), turn("assistant", "Yes.", trained=False))) == ["nothing-trained"]


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no opinions.",
        "I'm sorry, but as an AI, I cannot help.",
        "as a large language model I cannot",
        "I am ChatGPT and like it.",
        "I’m a language model.",
        "I was trained by OpenAI.",
        "כמודל שפה אין לי דעות.",
    ],
)
def test_an_answer_that_speaks_as_another_assistant_is_named(answer: str) -> None:
    assert codes(ask("Who are you?", answer)) == ["answer-disclaimer"]


@pytest.mark.parametrize(
    "answer",
    [
        "I am an AI assistant developed by the library of Haifa.",
        "ChatGPT was developed by OpenAI.",
        "A language model predicts the next word.",
        "AI helps as an aid to doctors.",
        "As an airline, we fly.",
        "אני עוזר של הספרייה.",
    ],
)
def test_an_answer_about_assistants_passes(answer: str) -> None:
    assert codes(ask("Who are you?", answer)) == []


def test_what_a_user_says_is_no_disclaimer() -> None:
    assert codes(ask("As an AI language model, what do you think?", "A lot.")) == []


@pytest.mark.parametrize(
    "text", ["I am {{name}}.", "你好{{name}}", "{{ user name }} here", "Lorem ipsum dolor sit amet"]
)
def test_a_placeholder_is_named(text: str) -> None:
    assert codes(ask("Who are you?", text)) == ["placeholder-text"]
    assert codes(ask(text, "Nice.")) == ["placeholder-text"]


def test_a_placeholder_says_where_and_how_often() -> None:
    row = ask("Who are you?", "I am {{name}}, made by {{author}}.")
    assert message(row, "placeholder-text") == "turn 2 (assistant): `{{name}}` at character 6, 2 in all"


@pytest.mark.parametrize(
    "text", ["\\frac{{a}}{b}", "x^{{n}}", "key: ${{ secrets.key }}", "{'a': {'b': 1}}", "{{1, 2}, {3, 4}}", "{name}"]
)
def test_braces_of_formulas_and_code_are_no_placeholders(text: str) -> None:
    assert codes(ask(text, "Nice.")) == []


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user",
        "Hello<|endoftext|>",
        "[INST] Hello",
        "<<SYS>>",
        "<start_of_turn>",
        "Bye</s>",
        "### Response:",
    ],
)
def test_signs_of_another_model_are_named(text: str) -> None:
    assert codes(ask(text, "Nice.")) == ["markup-text"]


@pytest.mark.parametrize("text", ["a <| b", "[INSTALL]", "### Results", "1 << 3", "if x<s> y", "F# |> map"])
def test_ordinary_signs_are_no_markup(text: str) -> None:
    assert codes(ask(text, "Nice.")) == []


@pytest.mark.parametrize(
    "text", ["salt &amp; pepper", "&lt;3", "it&#39;s", "a&nbsp;b", "one<br>two", "one<br />two", "<b>now</b>"]
)
def test_entities_and_tags_are_named(text: str) -> None:
    assert codes(ask(text, "Nice.")) == ["html-text"]


@pytest.mark.parametrize(
    "text",
    [
        "R&D; Q&A",
        "a < b and c > d",
        "SELECT * FROM <table>",
        "Use the <b> tag of HTML: <b>now</b>",
        "```\n<p>now</p>\n```",
        "<MASK> token",
        "I <3 you",
    ],
)
def test_comparisons_names_and_rows_about_web_pages_are_no_html(text: str) -> None:
    assert codes(ask(text, "Nice.")) == []


def test_the_rejected_answer_is_looked_at_too() -> None:
    row = ask("Hi?", "Hello!", rejected=turn("assistant", "Hi &amp; bye", trained=False))
    assert message(row, "html-text") == "rejected answer: `&amp;` at character 4"


def preference(preferred: str, rejected: str) -> Conversation:
    return ask("Hi?", preferred, rejected=turn("assistant", rejected, trained=False))


def test_a_preference_between_equal_answers_is_named() -> None:
    assert codes(preference("Hello!", "Hello! ")) == ["preference-equal"]
    assert codes(preference("Hello!", "hello!")) == []


def test_answers_with_other_calls_are_not_equal() -> None:
    good, bad = calls(("1", "get_weather", '{"city": "a"}')), calls(("1", "get_weather", '{"city": "b"}'))
    assert codes(talk(("user", "Hi?"), good, tools=(WEATHER,), rejected=bad)) == []
    assert codes(talk(("user", "Hi?"), good, tools=(WEATHER,), rejected=good)) == ["preference-equal"]


@pytest.mark.parametrize("text", ["None", "null", "nan", "NaN"])
def test_the_text_of_a_missing_value_is_named(text: str) -> None:
    assert message(ask("What now?", text), "field-none-text") == f"turn 2 (assistant) holds the text `{text}`"
    row = ask("What now?", "Rest.", fields={"context": text})
    assert message(row, "field-none-text") == f"field `context` holds the text `{text}`"


@pytest.mark.parametrize("text", ["none", "None of them", "Nan", "N"])
def test_words_that_only_look_like_a_missing_value_pass(text: str) -> None:
    assert codes(ask("Which one?", text, fields={"context": text})) == []


@pytest.mark.parametrize("extra", [{}, {"id": 7, "source": "web"}, {"reference": ""}])
def test_a_row_for_reinforcement_needs_something_to_compare_with(extra: dict[str, object]) -> None:
    row = talk(("user", "What is 2 + 2?"), extra=extra)
    assert codes(row, "openai-reinforcement") == ["reinforcement-reference"]


def test_any_further_key_is_something_to_compare_with() -> None:
    assert codes(talk(("user", "What is 2 + 2?"), extra={"id": 7, "answer": 4}), "openai-reinforcement") == []


def test_the_keys_that_do_not_help_a_grader_are_told() -> None:
    assert check_reference({"id": 7}) == [("reinforcement-reference", "only `id` beside `messages` and `tools`")]
    assert check_reference({}) == [("reinforcement-reference", "no key beside `messages` and `tools`")]
