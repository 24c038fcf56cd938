"""Conversations for property tests, and what of one has to survive a format."""

import json
from dataclasses import replace

import orjson
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.rows import Row

TEXTS = (
    "שלום",
    "מה שלומך?",
    "בְּרֵאשִׁית",
    "The answer is 42.",
    "שורה\nand a line",
    '"a", {b}',
    "👩‍👩‍👧",
    "[1, 2]",
    "{}",
    " ",
)
PLAIN_KEYS = ("id", "source", "מקור", "score", "reference")
TAKEN_KEYS = ("messages", "label", "prompt", "system", "input", "conversations", "instruction", "history", "tools")

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=30))
words = st.sampled_from(["search", "get_weather", "חיפוש", "f2"])
plain_values = st.one_of(
    texts, st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False, width=32)
)
json_values = st.recursive(
    plain_values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=4
)
urls = st.sampled_from(
    ["https://example.org/a.png", "data:image/png;base64,iVBORw0KGgo=", "https://example.org/תמונה.jpg"]
)


def say(role: str, text: str) -> Message:
    """A turn that is learnt where it is the assistant's."""
    return Message(role, text, trained=role == "assistant")


@st.composite
def argument_texts(draw: st.DrawFn) -> str:
    """JSON text of an object, spaced in one way or another."""
    value = draw(st.dictionaries(texts, json_values, max_size=2))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)


@st.composite
def tools(draw: st.DrawFn) -> dict[str, object]:
    """A declared tool."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": draw(st.sampled_from([[], ["city"]])),
    }
    function: dict[str, object] = {"name": draw(words), "description": draw(texts)}
    return {"type": "function", "function": function | ({"parameters": parameters} if draw(st.booleans()) else {})}


@st.composite
def pictured_turns(draw: st.DrawFn) -> Message:
    """A user's turn with pictures."""
    content = draw(texts)
    places = sorted(draw(st.lists(st.integers(0, len(content)), min_size=1, max_size=3)))
    images: list[Image] = []
    for place in places:
        url = draw(urls)
        images.append(
            Image(place, url, draw(st.sampled_from(["", "low", "high"])), "image/png" if "data:" in url else "")
        )
    return Message("user", content, trained=False, images=tuple(images))


@st.composite
def call_turns(draw: st.DrawFn, first: int) -> list[Message]:
    """An assistant's turn with calls, numbered on from `first`, and their results."""
    calls = [ToolCall(f"call_{first + n}", draw(words), draw(argument_texts())) for n in range(draw(st.integers(1, 3)))]
    content = draw(st.sampled_from(["", "", "Let me look"]))
    turn = Message("assistant", content, trained=True, tool_calls=tuple(calls))
    answered = draw(st.permutations(calls)) if draw(st.integers(0, 3)) == 0 else calls
    results = [
        Message("tool", draw(texts), trained=False, name=draw(st.sampled_from(["", call.name])), tool_call_id=call.id)
        for call in answered
    ]
    return [turn, *results]


@st.composite
def plain_conversations(draw: st.DrawFn, *, system: bool = True, rounds: int = 3) -> Conversation:
    """Questions and answers by turns, all answers learnt, after a system turn or none: what every chat format holds."""
    messages = [say("system", draw(texts.filter(bool)))] if system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, rounds))):
        messages += [say("user", draw(texts)), say("assistant", draw(texts))]
    return Conversation(tuple(messages), {}, "rows.jsonl:7")


def pairs() -> st.SearchStrategy[Conversation]:
    """One question and one answer."""
    return plain_conversations(system=False, rounds=1)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Anything that rows can hold: roles in any order, names, weights, pictures, calls with results, further keys."""
    messages: list[Message] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["round", "round", "calls", "picture", "lone"]))
        calls = sum(len(message.tool_calls) for message in messages)
        if kind == "calls":
            messages += draw(call_turns(calls + 1))
        elif kind == "picture":
            messages.append(draw(pictured_turns()))
        elif kind == "lone":
            messages.append(say(draw(st.sampled_from(["system", "developer", "user", "assistant"])), draw(texts)))
        else:
            messages += [say("user", draw(texts)), say("assistant", draw(texts))]
    messages.append(say("assistant", draw(texts)))
    turns = [_vary(draw, message) for message in messages]
    declared = tuple(draw(st.lists(tools(), max_size=2)))
    parallel = draw(st.sampled_from([None, None, None, True, False]))
    return Conversation(tuple(turns), {}, "rows.jsonl:7", declared, parallel, extra=draw(extras()))


def _vary(draw: st.DrawFn, message: Message) -> Message:
    """Now and then a name, or an answer that is learnt by half or not at all."""
    if message.role != "tool" and draw(st.integers(0, 9)) == 0:
        message = replace(message, name="דנה")
    if message.trained and draw(st.integers(0, 9)) == 0:
        message = replace(message, weight=0.5)
    return replace(message, trained=False, weight=1.0) if draw(st.integers(0, 9)) == 0 else message


def extras() -> st.SearchStrategy[dict[str, object]]:
    """Further keys of a row, now and then some that mean something in a format."""
    keys = st.sampled_from(PLAIN_KEYS * 4 + TAKEN_KEYS)
    return st.one_of(st.just({}), st.dictionaries(keys, json_values, max_size=2))


@st.composite
def preference_conversations(draw: st.DrawFn) -> Conversation:
    """A prompt of one or more turns, with the answer that is preferred and the one that is not."""
    start = draw(conversations())
    prompt = [replace(message, trained=False, weight=1.0) for message in start.messages]
    chosen, rejected = say("assistant", draw(texts)), Message("assistant", draw(texts), trained=False)
    return replace(start, messages=(*prompt, say("user", draw(texts)), chosen), rejected=rejected)


@st.composite
def kto_conversations(draw: st.DrawFn) -> Conversation:
    """A prompt, an answer, and whether it is a good one."""
    start = draw(preference_conversations())
    return replace(start, rejected=None, desirable=draw(st.booleans()))


@st.composite
def reinforcement_conversations(draw: st.DrawFn) -> Conversation:
    """Turns that end with the user, and a key for a grader."""
    start = draw(preference_conversations())
    return replace(
        start, messages=start.messages[:-1], rejected=None, extra=dict(start.extra) | {"reference": draw(json_values)}
    )


def any_conversations() -> st.SearchStrategy[Conversation]:
    """Conversations of every kind."""
    return st.one_of(
        plain_conversations(),
        conversations(),
        preference_conversations(),
        kto_conversations(),
        reinforcement_conversations(),
    )


def essence(conversation: Conversation) -> Conversation:
    """What has to survive: all but fields, place, spacing of arguments, and names of results that their calls tell."""
    return replace(
        conversation,
        messages=tuple(_essence(message) for message in number_calls(conversation.messages)),
        rejected=_essence(conversation.rejected) if conversation.rejected else None,
        fields={},
        where="",
        extra=orjson.loads(orjson.dumps(conversation.extra)),
    )


def _essence(message: Message) -> Message:
    calls = tuple(replace(call, arguments=_unspaced(call.arguments)) for call in message.tool_calls)
    return replace(message, tool_calls=calls)


def _unspaced(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return arguments


def losses(format_: Format, conversation: Conversation) -> list[str]:
    """What a format refuses to write; every refusal has the code for it, and names the row."""
    assert format_.write is not None
    refused: tuple[Finding, ...] = ()
    try:
        format_.write(conversation)
    except RowError as error:
        refused = error.findings
    assert {(finding.code, finding.where) for finding in refused} <= {("format-loss", conversation.where)}
    return [finding.message for finding in refused]


def write_and_read(format_: Format, conversation: Conversation) -> Conversation:
    """A conversation through a format, and through JSON text as in a file."""
    assert format_.write is not None
    fields = orjson.loads(orjson.dumps(format_.write(conversation)))
    return format_.read(Row(fields, "written.jsonl", 1))


def findings(format_: Format, fields: dict[str, object]) -> list[tuple[str, str]]:
    """What is wrong with a row: codes and messages."""
    refused: tuple[Finding, ...] = ()
    try:
        format_.read(Row(fields, "rows.jsonl", 3))
    except RowError as error:
        refused = error.findings
    assert {finding.where for finding in refused} <= {"rows.jsonl:3"}
    assert {finding.code for finding in refused} <= set(CHECKS)
    return [(finding.code, finding.message) for finding in refused]


def codes(format_: Format, fields: dict[str, object]) -> list[str]:
    """The codes of what is wrong with a row."""
    return [code for code, _ in findings(format_, fields)]
