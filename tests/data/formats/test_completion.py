import pytest
from conversations import codes, losses, say

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.completion import PROMPT_COMPLETION
from kivnun.data.rows import Row


def read(**fields: object) -> Conversation:
    return PROMPT_COMPLETION.read(Row(fields, "c.jsonl", 1))


def test_two_texts_are_a_question_and_its_answer() -> None:
    conversation = read(prompt="שלום ->", completion=" hello\n", id=3)
    assert conversation.messages == (say("user", "שלום ->"), say("assistant", " hello\n"))
    assert (conversation.extra, conversation.fields["id"]) == ({"id": 3}, "3")


@pytest.mark.parametrize("text", ["[1, 2]", "[]", '[{"a": 1}]', '{"role": "user"}', "[", "null"])
def test_a_text_that_happens_to_be_json_stays_a_text(text: str) -> None:
    assert [turn.content for turn in read(prompt=text, completion=text).messages] == [text, text]


@pytest.mark.parametrize("as_text", [False, True])
def test_lists_of_turns_are_read_and_only_the_completion_is_trained(as_text: bool) -> None:
    prompt: object = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    prompt = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]' if as_text else prompt
    messages = read(prompt=prompt, completion=[{"role": "assistant", "content": "c"}]).messages
    assert [(turn.content, turn.trained) for turn in messages] == [("a", False), ("b", False), ("c", True)]


def test_calls_without_ids_are_numbered_over_both_sides() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "1"}
    messages = read(prompt=[call], completion=[result, call, result]).messages
    assert [turn.tool_calls[0].id if turn.tool_calls else turn.tool_call_id for turn in messages] == [
        "call_1",
        "call_1",
        "call_2",
        "call_2",
    ]


def test_numbers_are_texts_and_null_is_none() -> None:
    assert [turn.content for turn in read(prompt=7, completion=True).messages] == ["7", "true"]
    assert codes(PROMPT_COMPLETION, {"prompt": None, "completion": {}}) == ["field-null", "field-type"]
    assert codes(PROMPT_COMPLETION, {"prompt": "x"}) == ["field-missing"]


def test_only_one_question_and_one_answer_have_a_place() -> None:
    turns = (say("system", "s"), say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d"))
    assert losses(PROMPT_COMPLETION, Conversation(turns, {}, "a:1")) == ["turn 1 is a system turn"]
    assert losses(PROMPT_COMPLETION, Conversation(turns[1:], {}, "a:1")) == [
        "its turns are user, assistant, user, assistant; the format holds one question and one answer"
    ]
    unlearnt = Message("assistant", "b", trained=False)
    assert losses(PROMPT_COMPLETION, Conversation((turns[1], unlearnt), {}, "a:1", extra={"prompt": 1})) == [
        "turn 2 (assistant) has weight 0; the format trains every assistant turn",
        "its further key `prompt` has another meaning in this format",
    ]
