import json
from dataclasses import replace

from conversations import argument_texts, conversations, say
from hypothesis import given

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.formats.calls import leave_out_ids, links_follow_order, number_calls, parse_arguments, write_arguments


def call(*names: str, ids: tuple[str, ...] = ()) -> Message:
    calls = tuple(ToolCall(ids[index] if ids else "", name, "{}") for index, name in enumerate(names))
    return replace(say("assistant", ""), tool_calls=calls)


def linked(*messages: Message) -> list[str]:
    return [turn.tool_call_id for turn in number_calls(messages) if turn.role == "tool"]


def test_results_answer_open_calls_in_order() -> None:
    result = say("tool", "1")
    assert linked(call("f", "g"), result, result, call("f"), result, result) == ["call_1", "call_2", "call_3", ""]


def test_a_result_that_names_its_function_answers_a_call_of_it() -> None:
    assert linked(call("f", "g"), replace(say("tool", "1"), name="g"), say("tool", "2")) == ["call_2", "call_1"]
    assert linked(call("f"), replace(say("tool", "1"), name="h")) == [""]


def test_ids_that_are_there_are_kept_and_never_made_twice() -> None:
    numbered = number_calls([call("f", ids=("call_2",)), call("g"), replace(say("tool", "1"), tool_call_id="call_2")])
    assert [turn.tool_calls[0].id for turn in numbered[:2]] == ["call_2", "call_2_"]
    assert numbered[2].name == "f"


@given(conversation=conversations())
def test_numbering_again_changes_nothing(conversation: Conversation) -> None:
    once = number_calls(conversation.messages)
    assert number_calls(once) == once


@given(conversation=conversations())
def test_links_follow_order_exactly_where_ids_can_be_made_again(conversation: Conversation) -> None:
    whole = number_calls(conversation.messages)
    assert links_follow_order(conversation.messages) == (number_calls(leave_out_ids(whole)) == whole)


@given(text=argument_texts())
def test_arguments_survive_as_an_object(text: str) -> None:
    value = parse_arguments(text)
    assert value is not None
    assert json.loads(write_arguments(value)) == json.loads(text)


def test_arguments_that_would_lose_something_are_no_object() -> None:
    broken = ["", "5", "[1]", "{", '{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 2}}', '{"a": Infinity}', "[" * 100_000]
    assert [parse_arguments(text) for text in broken] == [None] * len(broken)
