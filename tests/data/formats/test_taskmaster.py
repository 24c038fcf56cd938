import json

import pytest
from conversations import codes, losses, say

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.kto import KTO
from kivnun.data.formats.taskmaster import TASKMASTER
from kivnun.data.rows import Row

WELCOME = {"role": "agent", "text": "ברוך הבא"}
ASKED = {"role": "user", "text": "קפה כפול"}
CALL = {"role": "agent", "api": {"get_menu_items": {"query": "קפה"}}}
RESULT = {"role": "api", "response": {"get_menu_items": {"items": []}}}
FAULT = {"role": "api", "response": {"error": "no such item"}}


def row(context: list[object], generation: object, reward: object = 1.0) -> dict[str, object]:
    texts = [json.dumps(value, ensure_ascii=False) for value in (context, generation)]
    return {"conversation_id": "dlg-1", "context": texts[0], "generation": texts[1], "reward": reward}


def read(*given: object) -> Conversation:
    return TASKMASTER.read(Row(row(*given), "reward.json", 3))  # type: ignore[arg-type]


def test_only_the_generation_is_learnt_and_judged() -> None:
    got = read([WELCOME, ASKED], {"role": "agent", "text": "מיד"}, 0.0)
    assert got.messages == (
        Message("assistant", "ברוך הבא", trained=False),
        say("user", "קפה כפול"),
        say("assistant", "מיד"),
    )
    assert (got.desirable, got.extra) == (False, {"conversation_id": "dlg-1"})


def test_api_calls_and_responses_are_calls_and_their_results() -> None:
    got = read([ASKED, CALL, RESULT, CALL, FAULT], CALL)
    calls = [call for message in got.messages for call in message.tool_calls]
    assert [(call.id, call.name, json.loads(call.arguments)) for call in calls] == [
        (f"call_{number}", "get_menu_items", {"query": "קפה"}) for number in (1, 2, 3)
    ]
    results = [message for message in got.messages if message.role == "tool"]
    assert [(each.tool_call_id, json.loads(each.content)) for each in results] == [
        ("call_1", {"items": []}),
        ("call_2", {"error": "no such item"}),
    ]
    assert got.messages[-1].trained
    assert losses(KTO, got) == []


@pytest.mark.parametrize(("reward", "desirable"), [(1.0, True), (1, True), ("1.0", True), (0, False), ("0.0", False)])
def test_the_reward_says_whether_the_answer_is_good(reward: object, desirable: bool) -> None:
    assert read([], WELCOME, reward).desirable is desirable


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (row([], WELCOME, 0.5), ["label-invalid"]),
        (row([], WELCOME, "good"), ["label-invalid"]),
        (row([], WELCOME, None), ["field-null"]),
        (row([], ASKED), ["role-unknown"]),
        (row([], "hi"), ["field-type"]),
        (row([{"role": "narrator", "text": "a"}], WELCOME), ["role-unknown"]),
        (row(["a"], WELCOME), ["message-type"]),
        (row([{"role": "agent"}], WELCOME), ["content-missing"]),
        (row([{"role": "agent", "text": 7, "api": []}], WELCOME), ["content-type", "content-type"]),
        (row([{"role": "user", "text": "a", "mood": 1}], WELCOME), ["field-unknown"]),
        ({"reward": 1.0}, ["field-missing", "field-missing"]),
    ],
)
def test_what_cannot_be_read_is_refused(fields: dict[str, object], expected: list[str]) -> None:
    assert codes(TASKMASTER, fields) == expected


def test_it_is_recognised_by_its_three_columns() -> None:
    assert TASKMASTER.recognise(row([], WELCOME))
    assert TASKMASTER.recognise({"context": "", "generation": ""}) is None
