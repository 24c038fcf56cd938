"""Calls of functions: their form is learnt from the template, answers are held to it, and read by it in any pieces."""

import json
from collections.abc import Mapping, Sequence

import jsonschema
import numpy as np
import pytest

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.models.new import train_tokenizer
from kivnun.models.resolve import BUNDLED_FOLDER
from kivnun.server.chat.call_form import CallForm, learn_form
from kivnun.server.chat.call_grammar import CallWish, Function, write_grammar
from kivnun.server.chat.call_reader import CallPart, CallReader
from kivnun.serving.answers import Token
from kivnun.serving.json_schema import Grammars, lark_source
from kivnun.serving.text import AnswerText, vocabulary_of

TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
OPENED = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ARGUMENTS = "{{ c.function.arguments | tojson }}"


def template(calls: str) -> str:
    begun = "{% if m.tool_calls %}<|im_start|>assistant\n" + calls + "<|im_end|>\n{% else %}" + TURN + "{% endif %}"
    return TOOLS + begun + OPENED


QWEN = (
    '{% for c in m.tool_calls %}{{ \'<tool_call>\n{"name": "\' + c.function.name }}", "arguments": '
    + ARGUMENTS
    + "}\n</tool_call>{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
LLAMA = (
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call alone') }}{% endif %}{% set c = m.tool_calls[0] %}"
    '{"name": "{{ c.function.name }}", "parameters": ' + ARGUMENTS + "}"
)
MISTRAL = (
    '[TOOL_CALLS] [{% for c in m.tool_calls %}{{ \'{"name": "\' + c.function.name }}", "arguments": '
    + ARGUMENTS
    + "}{% if not loop.last %}, {% endif %}{% endfor %}]"
)
SPECIAL = QWEN.replace("<tool_call>", "<|call|>").replace("\n</tool_call>", "")
TEMPLATES = {
    "bundled": (BUNDLED_FOLDER / "chat_template.jinja").read_text("utf-8"),
    "qwen": template(QWEN),
    "llama": template(LLAMA),
    "mistral": template(MISTRAL),
    "special": template(SPECIAL),
}
FUNCTIONS = (
    Function(
        "find",
        {
            "type": "object",
            "properties": {"q": {"enum": ["}", '"', "שלום"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["q", "n"],
            "additionalProperties": False,
        },
        strict=True,
    ),
    Function("stop_all", {"type": "object", "properties": {}, "additionalProperties": False}, strict=False),
)
YES = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


def make_encoder(chat_template: str) -> Encoder:
    tokenizer = train_tokenizer(['{"name": "find", "arguments": {}}', "שלום"] * 3, 320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|call|>"]})
    tokenizer.chat_template = chat_template
    return Encoder(tokenizer)


ENCODERS = {name: make_encoder(text) for name, text in TEMPLATES.items()}


@pytest.fixture(scope="module", params=list(TEMPLATES))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


def stop_ids(encoder: Encoder) -> frozenset[int]:
    ended = vocabulary_of(encoder).special_id("<|im_end|>")
    assert ended is not None
    return frozenset({encoder.end_id, ended})


def write_calls(encoder: Encoder, calls: Sequence[tuple[str, Mapping[str, object]]]) -> str:
    """An assistant's turn as the template writes it."""
    user = {"role": "user", "content": "x"}
    written = [{"type": "function", "function": {"name": name, "arguments": values}} for name, values in calls]
    turn = {"role": "assistant", "content": "", "tool_calls": written}
    opened = encoder.render_chat([user], open_turn=True)
    return encoder.render_chat([user, turn], open_turn=False)[len(opened) :].partition("<|im_end|>")[0]


def read(form: CallForm, pieces: Sequence[str], mode: str = "auto") -> tuple[str, list[tuple[str, str]]]:
    reader = CallReader(form, "required" if mode == "required" else "auto")
    told = [each for piece in pieces for each in reader.push(piece)] + list(reader.end())
    calls: list[tuple[str, str]] = []
    for part in told:
        if isinstance(part, CallPart):
            if part.name is not None:
                calls.append((part.name, ""))
            name, arguments = calls[part.number]
            calls[part.number] = (name, arguments + part.arguments)
    return "".join(part for part in told if isinstance(part, str)), calls


def draw(encoder: Encoder, wish: CallWish, seed: int, begun: str = "") -> tuple[list[str], bool]:
    """The pieces of an answer of a model with random weights, and whether it came to its end."""
    vocabulary, stops = vocabulary_of(encoder), stop_ids(encoder)
    form = learn_form(encoder, stops)
    source = lark_source(write_grammar(form, wish, vocabulary))
    constraint = Grammars(vocabulary.grammar_tokenizer).compile(source, "test", lenient=True).start(stops, 400)
    shown = frozenset(s for s in map(vocabulary.special_id, vocabulary.split_special(form.texts)) if s is not None)
    answer, random, given = AnswerText(vocabulary, (), shown), np.random.default_rng(seed), encoder.encode_prompt(begun)
    pieces: list[str] = []
    for number in range(300):
        allowed_V = constraint.allowed()
        assert allowed_V is not None
        ends = allowed_V[list(stops)].all() and number >= len(given)
        token = given[number] if number < len(given) else int(random.choice(np.flatnonzero(allowed_V)))
        assert allowed_V[token]
        if token in stops or (ends and random.random() < 0.3):
            return [*pieces, answer.end().text], True
        constraint.take(token)
        pieces.append(answer.push([Token(token)]).text)
    return [*pieces, answer.end().text], False


def test_what_a_template_writes_is_read_back(encoder: Encoder) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    calls = [("find", {"q": '} "\\', "n": 3}), ("stop_all", {})][: 1 if form.separator is None else 2]
    text = write_calls(encoder, calls)
    content, found = read(form, [text])
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls
    assert read(form, list(text)) == (content, found)


def test_text_before_a_call_is_told_and_the_space_between_is_not(encoder: Encoder) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    written = write_calls(encoder, [("find", {"n": 3})])
    if form.sign:
        assert read(form, list("I look.\n" + written))[0] == "I look."
    plain = "a {x} < <tool [TOOL \n"
    assert read(form, list(plain)) == (plain, [])


def test_signs_that_are_cut_off_are_text_in_the_end(encoder: Encoder) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    begun = (form.sign or form.after_sign)[:-1]
    assert read(form, ["so ", begun] if form.sign else [begun])[0].endswith(begun)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_model_that_must_call_makes_calls_that_are_valid(encoder: Encoder, parallel: bool) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    counts = set()
    for seed in range(6):
        pieces, ended = draw(encoder, CallWish(FUNCTIONS, "required", parallel), seed)
        content, calls = read(form, pieces, "required")
        assert content == ""
        if ended:
            counts.add(len(calls))
            for name, arguments in calls:
                function = next(each for each in FUNCTIONS if each.name == name)
                jsonschema.validate(json.loads(arguments), dict(function.parameters))
    assert min(counts) >= 1
    assert max(counts) == 1 or (parallel and form.separator is not None)


def test_a_model_that_may_call_can_only_call_well(encoder: Encoder) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    begun = "so " + form.sign if form.sign else form.after_sign
    for seed in range(4):
        pieces, ended = draw(encoder, CallWish(FUNCTIONS, "auto", parallel=True), seed, begun)
        content, calls = read(form, pieces)
        assert content == ("so" if form.sign else "")
        assert calls
        assert not ended or [json.loads(arguments) for _, arguments in calls]


def test_an_answer_without_a_call_can_have_a_schema_of_its_own(encoder: Encoder) -> None:
    form = learn_form(encoder, stop_ids(encoder))
    answers = set()
    for seed in range(12):
        pieces, ended = draw(encoder, CallWish(FUNCTIONS, "auto", parallel=True, answer=YES), seed)
        content, calls = read(form, pieces)
        if ended:
            assert calls or set(json.loads(content)) == {"ok"}
            answers.add(bool(calls))
    assert answers == {True, False}


def test_forms_are_told_apart() -> None:
    forms = {name: learn_form(encoder, stop_ids(encoder)) for name, encoder in ENCODERS.items()}
    assert forms["qwen"].sign == forms["bundled"].sign == "<tool_call>"
    assert forms["mistral"] == CallForm("[TOOL_CALLS] [", '{"name": "', '", "arguments": ', "}", ", ", "]")
    assert (forms["llama"].sign, forms["llama"].separator) == ("", None)
    assert forms["special"].sign == "<|call|>"


@pytest.mark.parametrize(
    "calls",
    ["{{ m.tool_calls | length }} calls", "{% for c in m.tool_calls %}{{ c.function | tojson | tojson }}{% endfor %}"],
)
def test_a_template_whose_calls_cannot_be_read_back_is_refused(calls: str) -> None:
    encoder = make_encoder(template(calls))
    with pytest.raises(UserError) as refused:
        learn_form(encoder, stop_ids(encoder))
    assert refused.value.code == "messages-invalid"
