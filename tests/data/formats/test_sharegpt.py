import json
from dataclasses import replace

import pytest
from conversations import codes, findings, losses, say

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.formats.sharegpt import SHAREGPT
from kivnun.data.rows import Row

ASK, TELL = {"from": "human", "value": "מה מזג האוויר?"}, {"from": "gpt", "value": "חם"}
CALL = {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "חיפה"}}'}
RESULT = {"from": "observation", "value": '{"c": 31}'}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def read(*turns: object, **further: object) -> Conversation:
    return SHAREGPT.read(Row({"conversations": list(turns), **further}, "s.json", 1))


def test_calls_are_numbered_and_their_results_name_them() -> None:
    conversation = read(ASK, CALL, RESULT, TELL, tools=json.dumps([TOOL["function"]]), system="היה קצר")
    assert conversation.messages == (
        say("system", "היה קצר"),
        say("user", "מה מזג האוויר?"),
        replace(say("assistant", ""), tool_calls=(ToolCall("call_1", "weather", '{"city": "חיפה"}'),)),
        replace(say("tool", '{"c": 31}'), name="weather", tool_call_id="call_1"),
        say("assistant", "חם"),
    )
    assert conversation.tools == (TOOL,)


def test_several_calls_stand_in_one_turn() -> None:
    calls = {"from": "function_call", "value": '[{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]'}
    messages = read(ASK, calls, RESULT, {"from": "tool", "value": "2"}, TELL).messages
    assert [(call.id, call.name, call.arguments) for call in messages[1].tool_calls] == [
        ("call_1", "f", "{}"),
        ("call_2", "g", "{}"),
    ]
    assert [(turn.tool_call_id, turn.name) for turn in messages[2:4]] == [("call_1", "f"), ("call_2", "g")]


def test_other_names_of_the_roles_and_role_with_content_are_read() -> None:
    expected = (say("user", "q"), say("assistant", "a"))
    assert read({"from": "user", "value": "q"}, {"from": "chatgpt", "value": "a"}).messages == expected
    assert read({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}).messages == expected
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert SHAREGPT.read(Row({"messages": turns, "conversation_id": 4}, "s", 1)).messages == expected
    assert SHAREGPT.read(Row({"messages": turns, "id": 4}, "s", 1)).extra == {"id": 4}


def test_half_a_weight_is_read_but_has_no_place_when_written() -> None:
    conversation = read(ASK, TELL | {"weight": 0.5})
    assert conversation.messages[1].weight == 0.5
    [loss] = losses(SHAREGPT, conversation)
    assert loss == "turn 2 has weight 0.5; the format knows no weights between 0 and 1"


def test_an_answer_with_weight_0_is_read_but_has_no_place_when_written() -> None:
    conversation = read(ASK, TELL | {"weight": 0}, ASK, TELL)
    assert [turn.trained for turn in conversation.messages] == [False, False, False, True]
    assert losses(SHAREGPT, conversation) == ["turn 2 (assistant) has weight 0; the format trains every assistant turn"]


@pytest.mark.parametrize(
    ("turns", "code", "said"),
    [
        ([], "messages-empty", "`conversations` has no turns"),
        (None, "field-null", "`conversations` is null"),
        ("x", "field-type", "list of turns"),
        (["x"], "message-type", "turn 1 should be an object"),
        ([{"from": "humam", "value": "x"}], "role-unknown", "turn 1 is from 'humam'; did you mean `human`?"),
        ([{"value": "x"}], "role-unknown", "turn 1 is from None"),
        ([{"from": "gpt"}], "content-missing", "turn 1 (gpt) has no value"),
        ([{"from": "gpt", "value": 5}], "content-type", "turn 1 (gpt) has 5"),
        ([TELL | {"loss": False}], "field-unknown", "unknown key `loss`"),
        ([ASK | {"weight": 0}], "weight-invalid", "turn 1 (human)"),
        ([{"from": "function_call", "value": "f(x)"}], "content-type", "turn 1 (function_call)"),
        ([{"from": "function_call", "value": '{"arguments": {}}'}], "field-missing", "does not name its function"),
        ([{"from": "function_call", "value": '{"name": "f"}'}], "field-missing", "arguments"),
    ],
)
def test_a_broken_row_is_refused_with_its_code_and_place(turns: object, code: str, said: str) -> None:
    [(found, message)] = findings(SHAREGPT, {"conversations": turns})
    assert (found, said in message) == (code, True), message


def test_a_row_without_turns_is_refused() -> None:
    assert codes(SHAREGPT, {"id": 1}) == ["field-missing"]


def called(*names: str, arguments: str = "{}") -> Message:
    calls = tuple(ToolCall(f"call_{number}", name, arguments) for number, name in enumerate(names, start=1))
    return replace(say("assistant", ""), tool_calls=calls)


def result(call_id: str, name: str = "") -> Message:
    return Message("tool", "1", trained=False, name=name, tool_call_id=call_id)


ORDER = "results do not follow their calls in order, and the format has no ids to tell which is whose"


@pytest.mark.parametrize(
    ("messages", "lost"),
    [
        ([called("f", "g"), result("call_1"), result("call_2")], []),
        ([called("f", "g"), result("call_1", "f"), result("call_2", "g")], []),
        ([called("f", "g"), result("call_2"), result("call_1")], [ORDER]),
        ([called("f", "g"), result("call_1", "g")], [ORDER]),
        ([called("f"), result("call_9")], [ORDER]),
        ([called("f"), result("call_1"), result("call_1")], [ORDER]),
        ([replace(called("f"), content="wait")], ["turn 1 (assistant) has text beside its calls; the format has one"]),
        ([called("f", arguments="[1]")], ["turn 1 (assistant) calls f with arguments that are no JSON object"]),
        ([called("f", arguments='{"a": 1, "a": 2}')], ["turn 1 (assistant) calls f with arguments"]),
        ([called("f", arguments='{"a": NaN}')], ["turn 1 (assistant) calls f with arguments"]),
        ([replace(say("user", "q"), name="דנה")], ["turn 1 (user) has the name 'דנה'"]),
        ([replace(say("user", "q"), images=(Image(0, "http://a"),))], ["turn 1 (user) has 1 picture(s)"]),
        ([say("user", "q"), say("system", "s")], ["turn 2 is a system turn"]),
    ],
)
def test_what_has_no_place_is_a_loss(messages: list[Message], lost: list[str]) -> None:
    found = losses(SHAREGPT, Conversation(tuple(messages), {}, "a:1"))
    assert len(found) == len(lost)
    assert all(loss.startswith(start) for loss, start in zip(found, lost, strict=True)), found


def test_tools_with_further_keys_and_parallel_calls_are_losses() -> None:
    turns = (say("user", "q"), say("assistant", "a"))
    conversation = Conversation(turns, {}, "a:1", ({**TOOL, "strict": True},), parallel_tool_calls=False)
    assert losses(SHAREGPT, conversation) == [
        "it says `parallel_tool_calls`",
        "tool 1 has keys beside its function: type, function, strict",
    ]
