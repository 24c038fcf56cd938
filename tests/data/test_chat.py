"""Tools, calls and roles through chat templates of every taste: all of a row is written, or the row is refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from tiny_data import refusal
from transformers.utils.chat_template_utils import render_jinja_template

from kivnun.data.chat import RenderChat, Segment, Turn, render_conversation, render_untrained, row_texts
from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.encode import Encoder
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE, load_tokenizer
from kivnun.models.resolve import BUNDLED_FOLDER

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "מזג האוויר", "parameters": {}}}
CALL = ToolCall("call_1", "get_weather", '{"city": "תל אביב"}')
CALLING = Conversation(
    (
        Message("user", "What is the weather?", trained=False),
        Message("assistant", "", trained=True, tool_calls=(CALL,)),
        Message("tool", '{"degrees": 21}', trained=False, tool_call_id="call_1"),
        Message("assistant", "It is 21.", trained=True),
    ),
    {},
    "a.jsonl:3",
    (TOOL,),
)

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}%CALLS%</s>\n{% endfor %}"
TOOLS = "{% if tools %}[{% for t in tools %}{{ t.function | tojson }}{% endfor %}]{% endif %}"
OPENED = "{% if add_generation_prompt %}<assistant>{% endif %}"


def template(calls: str, *, tools: str = TOOLS) -> RenderChat:
    """A chat template as models have it, which writes calls in its own way, run by transformers' own code."""
    source = tools + TURNS.replace("%CALLS%", calls and f"{{% for c in m.tool_calls or [] %}}{calls}{{% endfor %}}")
    return renderer(source + OPENED)


def renderer(source: str) -> RenderChat:
    def render(messages: Sequence[Turn], open_turn: bool, tools: Sequence[Turn]) -> str:
        (text,), _ = render_jinja_template(
            conversations=[list(map(dict, messages))],
            tools=list(map(dict, tools)) or None,
            chat_template=source,
            add_generation_prompt=open_turn,
        )
        return text

    return render


WANTS_OBJECT = template("<call>{{ c.function.name }}{{ c.function.arguments | tojson }}")
WANTS_TEXT = template("<call>{{ c.function.name + ' ' + c.function.arguments }}")
JOINS_AS_PYTHON_DOES = template("<call>{{ c.function.name ~ ' ' ~ c.function.arguments }}")


@pytest.mark.parametrize("render_chat", [WANTS_OBJECT, WANTS_TEXT, JOINS_AS_PYTHON_DOES])
def test_calls_are_written_as_the_template_wants_them_and_trained(render_chat: RenderChat) -> None:
    segments = render_conversation(CALLING, render_chat)
    call, answer = (segment.text for segment in segments if segment.trained)
    assert call.startswith("<call>get_weather")
    assert call.endswith('{"city": "תל אביב"}</s>')
    assert answer == "It is 21.</s>"
    text = "".join(segment.text for segment in segments)
    assert text.count("מזג האוויר") == 1
    assert "degrees" in text


def test_a_call_without_arguments_has_an_empty_object() -> None:
    bare = replace(CALLING.messages[1], tool_calls=(ToolCall("", "get_weather", "{}"),))
    segments = render_conversation(replace(CALLING, messages=(CALLING.messages[0], bare)), WANTS_OBJECT)
    assert segments[1] == Segment("<call>get_weather{}</s>", trained=True)


@pytest.mark.parametrize(
    ("render_chat", "lost"),
    [
        (template("{{ c.function.name }}{{ c.function.arguments | tojson }}", tools=""), "the tools (get_weather)"),
        (template(""), "the call of get_weather"),
        (template("{{ c.function.name }}"), "the call of get_weather in turn 2"),
        (renderer("{{ messages[0].content }}{{ messages[1].content }}" + TOOLS), "turn 3 (tool)"),
    ],
)
def test_a_template_that_leaves_something_out_is_refused_with_the_row(render_chat: RenderChat, lost: str) -> None:
    error = refusal(lambda: render_conversation(CALLING, render_chat))
    assert error.code == "messages-invalid"
    assert error.problem.startswith("a.jsonl:3: the model's chat template leaves out ")
    assert lost in error.problem


def test_names_that_stand_in_the_words_hide_no_loss() -> None:
    asked = Message("user", "Use get_weather with a city", trained=False)
    row = replace(CALLING, messages=(asked, *CALLING.messages[1:]))
    error = refusal(lambda: render_conversation(row, template("", tools="")))
    assert "the tools (get_weather)" in error.problem
    assert "all calls" in error.problem


def test_a_developer_turn_becomes_the_system_turn_of_a_template_that_knows_none() -> None:
    row = Conversation(
        (Message("developer", "Be brief.", trained=False), Message("user", "hi", trained=False),
         Message("assistant", "ho", trained=True)), {}, "a:1",
    )  # fmt: skip
    skips = renderer("{% for m in messages if m.role != 'developer' %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    refuses = renderer(
        "{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('unknown role') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    for render_chat in (skips, refuses):
        assert render_conversation(row, render_chat)[0].text == "<system>Be brief.<user>hi"
    # A template that writes down any role has never shown its model this one.
    assert render_conversation(row, template(""))[0].text.startswith("<system>Be brief.")


def test_a_template_with_a_form_for_developers_keeps_their_turns() -> None:
    row = Conversation(
        (Message("developer", "Be brief.", trained=False), Message("user", "hi", trained=False),
         Message("assistant", "ho", trained=True)), {}, "a:1",
    )  # fmt: skip
    marks = renderer(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'developer' %}# Instructions: {% endif %}{{ m.content }}"
        "{% endfor %}"
    )
    strict = renderer(
        "{% for m in messages %}{% if m.role not in ['developer', 'user', 'assistant', 'system'] %}"
        "{{ raise_exception('unknown role') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    assert render_conversation(row, marks)[0].text.startswith("<developer># Instructions: Be brief.")
    assert render_conversation(row, strict)[0].text.startswith("<developer>Be brief.")


def test_pictures_are_refused_with_a_way_out() -> None:
    seen = Message("user", "What is this?", trained=False, images=(Image(0, "https://x/y.png"),))
    row = Conversation((seen, Message("assistant", "a cat", trained=True)), {}, "a.jsonl:9")
    error = refusal(lambda: render_conversation(row, WANTS_OBJECT))
    assert (error.code, error.problem.split(":")[:2]) == ("messages-invalid", ["a.jsonl", "9"])
    assert "pictures" in error.hint


def test_a_prompt_without_an_answer_is_nothing_to_learn_but_can_be_shown() -> None:
    row = Conversation((Message("user", "שלום", trained=False),), {}, "a.jsonl:2", (TOOL,))
    error = refusal(lambda: render_conversation(row, WANTS_OBJECT))
    assert error.code == "nothing-to-learn"
    assert error.problem == "a.jsonl:2: no turn is trained"
    assert render_untrained(row, WANTS_OBJECT).endswith("<user>שלום</s>\n<assistant>")
    unlearnt = replace(row, messages=(*row.messages, Message("assistant", "hi", trained=False)))
    assert render_untrained(unlearnt, WANTS_OBJECT).endswith("<assistant>hi</s>\n")


def test_every_text_of_a_row_is_named() -> None:
    named = replace(CALLING, messages=(replace(CALLING.messages[0], name="dana"), *CALLING.messages[1:]))
    texts = dict(row_texts(named))
    assert texts["the name of turn 1 (user)"] == "dana"
    assert texts["a call in turn 2 (assistant)"] == 'get_weather({"city": "תל אביב"})'
    assert texts["turn 3 (tool)"] == '{"degrees": 21}'
    assert "מזג האוויר" in texts["tool 'get_weather'"]


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return Encoder(load_tokenizer(BUNDLED_FOLDER))


def test_the_bundled_template_writes_plain_chats_as_chatml_to_the_byte(bundled: Encoder) -> None:
    plain = renderer(DEFAULT_CHAT_TEMPLATE)
    contents = ("hi", "", "  a\nb\n", " שלום\n\n", "{{ x }} <b>")
    for roles in (("user",), ("system", "user", "assistant"), ("user", "assistant", "tool", "assistant")):
        for content, open_turn in product(contents, (True, False)):
            turns = [{"role": role, "content": content} for role in roles]
            assert bundled.render_chat(turns, open_turn) == plain(turns, open_turn, ())


def test_the_bundled_template_writes_tools_calls_and_names(bundled: Encoder) -> None:
    two = (CALL, ToolCall("call_2", "get_weather", "{}"))
    messages = (replace(CALLING.messages[0], name="dana"), replace(CALLING.messages[1], tool_calls=two))
    asked, called, *_ = render_conversation(replace(CALLING, messages=messages), bundled.render_chat)
    assert asked.text.startswith('<|im_start|>tools\n{"type": "function", "function": {"name": "get_weather", ')
    assert "<|im_start|>user name=dana\nWhat is the weather?<|im_end|>\n" in asked.text
    assert called == Segment(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "תל אביב"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call><|im_end|>',
        trained=True,
    )
