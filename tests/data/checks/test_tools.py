"""Calls fit the functions that a row declares and the results that it gives."""

import json
import socket

import pytest
from talks import WEATHER, calls, codes, message, result, talk, turn

from kivnun.data.checks.tools import check_tools
from kivnun.data.conversation import Conversation, Message

U, A = ("user", "How warm is it in Haifa?"), ("assistant", "12 degrees.")
HAIFA = '{"city": "חיפה"}'


def tool_talk(*turns: Message | tuple[str, str], tools: tuple[dict[str, object], ...] = (WEATHER,)) -> Conversation:
    return talk(U, *turns, tools=tools)


def declared(function: object, **more: object) -> tuple[dict[str, object], ...]:
    return ({"type": "function", "function": function, **more},)


def with_arguments(arguments: str) -> Conversation:
    return tool_talk(calls(("1", "get_weather", arguments)), result("1"), A)


def test_a_call_with_its_result_passes() -> None:
    assert codes(with_arguments(HAIFA)) == []


def test_several_calls_may_be_answered_in_any_order() -> None:
    both = calls(("1", "get_weather", HAIFA), ("2", "get_weather", HAIFA))
    assert codes(tool_talk(both, result("2"), result("1"), A)) == []


def test_calls_without_ids_are_answered_in_their_order() -> None:
    both = calls(("", "get_weather", HAIFA), ("", "get_weather", HAIFA))
    assert codes(tool_talk(both, result(), result(), A)) == []


def test_a_call_that_ends_the_row_is_its_answer_and_needs_no_result() -> None:
    assert codes(tool_talk(calls(("1", "get_weather", HAIFA)))) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "turn 2: arguments of `get_weather` are no JSON: nothing"),
        ("{city: Haifa}", "turn 2: arguments of `get_weather` are no JSON: {city: Haifa}"),
        ('["Haifa"]', 'turn 2: arguments of `get_weather` are ["Haifa"], not an object'),
        ('"{}"', 'turn 2: arguments of `get_weather` are "{}", not an object'),
    ],
)
def test_arguments_that_are_no_json_object_are_shown(arguments: str, said: str) -> None:
    assert message(with_arguments(arguments), "tool-arguments") == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{}", "turn 2: arguments of `get_weather`: 'city' is a required property"),
        (
            '{"city": "Haifa", "days": "two"}',
            "turn 2: arguments of `get_weather`: days: 'two' is not of type 'integer'",
        ),
    ],
)
def test_arguments_that_do_not_fit_the_schema_say_where(arguments: str, said: str) -> None:
    assert message(with_arguments(arguments), "tool-arguments-schema") == said


def test_a_function_that_is_not_declared_is_unknown() -> None:
    assert codes(tool_talk(calls(("1", "get_time", "{}")), result("1"), A)) == ["tool-unknown"]
    nothing = tool_talk(calls(("1", "get_time", "{}")), result("1"), A, tools=())
    assert message(nothing, "tool-unknown") == "turn 2 calls `get_time`; declared: none"


def test_calls_of_the_rejected_answer_are_checked_too() -> None:
    row = talk(U, A, tools=(WEATHER,), rejected=calls(("1", "get_time", "{}")))
    assert codes(row) == ["tool-unknown"]


def test_a_call_that_is_not_answered_before_the_next_turn_lacks_its_result() -> None:
    both = calls(("1", "get_weather", HAIFA), ("2", "get_weather", HAIFA))
    one = tool_talk(both, result("1"), A)
    assert message(one, "tool-result-missing") == "1 call is not answered before turn 4 (assistant)"
    none = tool_talk(both, A)
    assert message(none, "tool-result-missing") == "2 calls are not answered before turn 3 (assistant)"
    assert "tool-result-missing" in codes(tool_talk(both, result("1")))


@pytest.mark.parametrize(
    "turns",
    [
        (result("1"), A),
        (calls(("1", "get_weather", HAIFA)), result("2"), A),
        (calls(("1", "get_weather", HAIFA)), result("1"), result("1"), A),
        (calls(("1", "get_weather", HAIFA)), result("1"), A, U, result("1"), A),
    ],
    ids=["no call", "another id", "answered twice", "long answered"],
)
def test_a_result_without_its_call_is_an_orphan(turns: tuple[Message | tuple[str, str], ...]) -> None:
    assert "tool-result-orphan" in codes(tool_talk(*turns))


def test_two_calls_of_one_id_are_named() -> None:
    same = calls(("7", "get_weather", HAIFA), ("7", "get_weather", HAIFA))
    assert message(tool_talk(same, result("7"), result("7"), A), "tool-call-id") == "2 calls have the id `7`"


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (({"type": "function"},), "tool 1 has no function with a name"),
        (declared({"name": " "}), "tool 1 has no function with a name"),
        (declared({"name": "a"}, type="search"), 'tool 1 is of type "search", not function'),
        (declared({"name": "a"}) * 2, "function `a` is declared twice"),
        (declared({"name": "a", "parameters": ["x"]}), 'parameters of function `a`: ["x"] is no JSON schema'),
        (
            declared({"name": "a", "parameters": {"type": "dict"}}),
            "parameters of function `a`: no JSON schema (type: 'dict' is not valid under any of the given schemas)",
        ),
    ],
)
def test_a_function_that_is_not_well_formed_says_why(tools: tuple[dict[str, object], ...], said: str) -> None:
    assert message(tool_talk(A, tools=tools), "tools-invalid") == said


@pytest.mark.timeout(20)
def test_a_schema_never_fetches_what_it_refers_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        far = {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"}
        row = tool_talk(calls(("1", "a", "{}")), tools=declared({"name": "a", "parameters": far}))
        # A fetch would wait here for an answer that never comes.
        assert codes(row) == []
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.timeout(20)
def test_a_schema_never_runs_a_pattern_of_the_data() -> None:
    slow = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
    arguments = json.dumps({"x": "a" * 40 + "!"})
    assert codes(tool_talk(calls(("1", "a", arguments)), tools=declared({"name": "a", "parameters": slow}))) == []
    keys = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    arguments = json.dumps({"a" * 40 + "!": 1})
    assert codes(tool_talk(calls(("1", "a", arguments)), tools=declared({"name": "a", "parameters": keys}))) == []


def test_a_schema_that_refers_to_itself_for_ever_is_no_crash() -> None:
    endless = {"$ref": "#"}
    assert codes(tool_talk(calls(("1", "a", "{}")), tools=declared({"name": "a", "parameters": endless}))) == []


def test_at_most_eight_problems_of_a_row_are_told() -> None:
    many = calls(*[(str(number), "get_time", "x") for number in range(20)])
    assert len(check_tools(tool_talk(many))) == 8


def test_tools_of_a_row_that_calls_none_are_still_read() -> None:
    assert codes(tool_talk(A, tools=declared({"name": ""}))) == ["tools-invalid"]
    assert codes(talk(U, turn("assistant", "12 degrees."), tools=(WEATHER,))) == []
