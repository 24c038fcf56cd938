import math

import orjson
import pytest
from conversations import codes, conversations, essence, findings, losses
from hypothesis import given

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.formats import FORMATS
from kivnun.data.formats.openai_chat import OPENAI_CHAT
from kivnun.data.rows import Row

ASK = {"role": "user", "content": "מה השעה?"}
TELL = {"role": "assistant", "content": "חמש"}
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"city":"Haifa"}'}}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}


def read(*turns: object, **further: object) -> Conversation:
    return OPENAI_CHAT.read(Row({"messages": list(turns), **further}, "chat.jsonl", 4))


def test_turns_are_read_as_they_stand_and_only_the_assistants_are_trained() -> None:
    conversation = read({"role": "developer", "content": " Be short. "}, ASK, TELL)
    assert conversation.messages == (
        Message("developer", " Be short. ", trained=False),
        Message("user", "מה השעה?", trained=False),
        Message("assistant", "חמש", trained=True),
    )
    assert conversation.where == "chat.jsonl:4"


@pytest.mark.parametrize(("weight", "trained"), [(0, False), (1, True), (1.0, True), (None, True)])
def test_a_weight_says_whether_an_answer_is_trained(weight: object, trained: bool) -> None:
    assert read(ASK, TELL | {"weight": weight}).messages[1].trained is trained


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_a_weight_may_lie_between_not_trained_and_trained(weight: float) -> None:
    message = read(ASK, TELL | {"weight": weight}).messages[1]
    assert (message.trained, message.weight) == (True, weight)


@pytest.mark.parametrize("weight", [-0.5, 1.01, math.nan, math.inf])
def test_a_weight_beyond_0_and_1_is_refused(weight: float) -> None:
    assert codes(OPENAI_CHAT, {"messages": [ASK, TELL | {"weight": weight}]}) == ["weight-invalid"]


def test_half_a_weight_is_written_and_is_another_row() -> None:
    half, whole = (read(ASK, TELL | {"weight": weight}) for weight in (0.5, 1))
    assert OPENAI_CHAT.write(half)["messages"][1]["weight"] == 0.5
    assert "weight" not in OPENAI_CHAT.write(whole)["messages"][1]
    assert half.content_hash != whole.content_hash
    assert whole.content_hash == read(ASK, TELL).content_hash


def test_an_answer_with_calls_needs_no_content_and_results_name_their_call() -> None:
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []}
    result = {"role": "tool", "tool_call_id": "c1", "name": "clock", "content": '{"hour": 5}'}
    conversation = read(ASK, asking, result, TELL, tools=[TOOL], parallel_tool_calls=False)
    assert conversation.messages[1] == Message(
        "assistant", "", trained=True, tool_calls=(ToolCall("c1", "clock", '{"city":"Haifa"}'),)
    )
    assert conversation.messages[2] == Message("tool", '{"hour": 5}', trained=False, name="clock", tool_call_id="c1")
    assert (conversation.tools, conversation.parallel_tool_calls) == ((TOOL,), False)


def test_the_older_functions_become_tools_with_ids() -> None:
    asking = {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": "{}"}}
    result = {"role": "function", "name": "clock", "content": "5"}
    older = read(ASK, asking, result, asking, result, TELL, functions=[TOOL["function"]])
    assert [call.id for message in older.messages for call in message.tool_calls] == ["call_1", "call_2"]
    assert [(turn.role, turn.tool_call_id) for turn in older.messages if turn.role == "tool"] == [
        ("tool", "call_1"),
        ("tool", "call_2"),
    ]
    assert older.tools == (TOOL,)
    assert older.extra == {}


def test_arguments_that_are_an_object_become_json_text() -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "חיפה"}}}
    assert read(ASK, {"role": "assistant", "tool_calls": [call]}).messages[1].tool_calls == (
        ToolCall("call_1", "clock", '{"city": "חיפה"}'),
    )


def test_parts_are_joined_and_pictures_keep_their_place() -> None:
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    parts = [{"type": "text", "text": "אב"}, PICTURE, {"type": "text", "text": "גד"}, data]
    turn = read({"role": "user", "content": parts}, TELL).messages[0]
    assert turn.content == "אבגד"
    assert turn.images == (
        Image(2, "https://example.org/a.png", "low"),
        Image(4, "data:image/png;base64,AA==", "", "image/png"),
    )


def test_a_table_holds_turns_and_tools_as_json_text() -> None:
    cells = {"messages": orjson.dumps([ASK, TELL]).decode(), "tools": orjson.dumps([TOOL]).decode()}
    row = Row({**cells, "parallel_tool_calls": "true"}, "t.csv", 2)
    conversation = OPENAI_CHAT.read(row)
    assert conversation.messages == read(ASK, TELL).messages
    assert (conversation.tools, conversation.parallel_tool_calls) == ((TOOL,), True)


def test_further_keys_are_kept_and_plain_ones_and_lists_of_texts_are_fields() -> None:
    conversation = read(ASK, TELL, id=7, good=True, tags=["a"], nothing=None)
    assert conversation.extra == {"id": 7, "good": True, "tags": ["a"]}
    assert conversation.fields == {"id": "7", "good": "true", "tags": '["a"]'}


@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        (None, "field-null", "`messages` is null"),
        ("hello", "field-type", "'hello'"),
        ({"role": "user"}, "field-type", "list of turns"),
        ([], "messages-empty", "no turns"),
        (["hi", TELL], "message-type", "turn 1 should be an object, got 'hi'"),
        (
            [{"role": "asistant", "content": "x"}],
            "role-unknown",
            "turn 1 has role 'asistant'; did you mean `assistant`?",
        ),
        ([{"role": ["user"], "content": "x"}], "role-unknown", "turn 1"),
        ([{"content": "x"}], "role-unknown", "turn 1 has role None"),
        ([ASK, {"role": "assistant"}], "content-missing", "turn 2 (assistant) has no content"),
        ([{"role": "user", "content": None}], "content-missing", "turn 1 (user)"),
        ([{"role": "user", "content": []}], "content-missing", "turn 1 (user)"),
        ([{"role": "user", "content": 5}], "content-type", "got 5"),
        ([{"role": "user", "content": ["x"]}], "content-type", "part 1"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "content-type", "'input_audio'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "content-type", "part 1"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}], "content-type", "'a.png'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "hi"}}]}],
            "content-type",
            "'hi'",
        ),
        ([{"role": "assistant", "content": [PICTURE]}], "image-on-answer", "turn 1 (assistant) holds 1 picture"),
        ([{"role": "system", "content": [PICTURE]}], "content-type", "only user turns"),
        ([ASK | {"weight": 1}], "weight-invalid", "turn 1 (user) has weight 1; only assistant"),
        ([TELL | {"weight": 2}], "weight-invalid", "weight 2"),
        ([TELL | {"weight": True}], "weight-invalid", "weight True"),
        ([TELL | {"weight": [1]}], "weight-invalid", "weight [1]"),
        ([TELL | {"refusal": "no"}], "field-unknown", "unknown key `refusal`: 'no'"),
        ([ASK | {"nmae": "Dana"}], "field-unknown", "did you mean `name`?"),
        ([ASK | {"name": 5}], "field-type", "`name` should be text, got 5"),
        ([ASK | {"tool_calls": [CALL]}], "field-unknown", "belong to assistant turns"),
        ([ASK | {"tool_call_id": "c1"}], "field-unknown", "belongs to tool turns"),
        ([TELL | {"tool_calls": {"a": 1}}], "field-type", "tool_calls should be a list"),
        ([TELL | {"tool_calls": ["x"]}], "field-type", "call 1 should be an object"),
        ([TELL | {"tool_calls": [CALL | {"type": "custom"}]}], "field-type", "'custom'"),
        ([TELL | {"tool_calls": [{"id": "c1", "function": {}}]}], "field-missing", "does not name its function"),
        ([TELL | {"tool_calls": [{"id": "c1", "function": {"name": "f"}}]}], "field-missing", "arguments"),
        ([TELL | {"tool_calls": [{"function": {"name": "f", "arguments": 5}}]}], "field-type", "got 5"),
        ([{"role": "function", "content": "5"}], "field-missing", "does not name its function"),
    ],
)
def test_a_broken_row_is_refused_with_its_code_and_place(messages: object, code: str, said: str) -> None:
    [(found, message)] = findings(OPENAI_CHAT, {"messages": messages})
    assert (found, said in message) == (code, True), message


@pytest.mark.parametrize(
    "tools", ["x", {"name": "f"}, [5], [{"type": "function"}], [{"type": "custom", "name": "f"}], [{"function": {}}]]
)
def test_tools_that_name_no_function_are_refused(tools: object) -> None:
    assert codes(OPENAI_CHAT, {"messages": [ASK, TELL], "tools": tools}) == ["tools-invalid"]


def test_everything_that_is_wrong_with_a_row_is_said_at_once() -> None:
    turns = [{"role": "bot", "content": 5}, "x", TELL | {"weight": 3, "who": "me"}]
    found = codes(OPENAI_CHAT, {"messages": turns, "tools": [5], "parallel_tool_calls": "perhaps"})
    assert sorted(found) == sorted(
        [
            "role-unknown",
            "content-type",
            "message-type",
            "weight-invalid",
            "field-unknown",
            "tools-invalid",
            "field-type",
        ]
    )


def test_a_row_without_messages_is_refused() -> None:
    assert codes(OPENAI_CHAT, {"id": 1}) == ["field-missing"]


def test_further_keys_and_judgements_are_losses() -> None:
    answer = Message("assistant", "a", trained=True)
    conversation = Conversation((answer,), {}, "a:1", rejected=answer, desirable=True, extra={"id": 1})
    assert losses(OPENAI_CHAT, conversation) == [
        "it has a rejected answer",
        "it has a label, good or bad",
        "it has the further key `id`",
    ]


@pytest.mark.parametrize(
    ("url", "mime_type", "lost"),
    [
        (
            "https://example.org/a",
            "image/png",
            ["turn 1 (user) has a picture of type image/png, which the format does not name"],
        ),
        ("data:image/png;base64,AA==", "image/png", []),
        ("https://example.org/a", "", []),
    ],
)
def test_a_pictures_type_has_a_place_in_a_data_url_only(url: str, mime_type: str, lost: list[str]) -> None:
    picture = Message("user", "", trained=False, images=(Image(0, url, mime_type=mime_type),))
    assert losses(OPENAI_CHAT, Conversation((picture,), {}, "a:1")) == lost


@given(conversation=conversations())
def test_only_further_keys_are_lost_of_a_conversation(conversation: Conversation) -> None:
    assert losses(OPENAI_CHAT, conversation) == [f"it has the further key `{key}`" for key in conversation.extra]


@given(conversation=conversations())
def test_every_turn_reads_alike_alone_and_in_the_row(conversation: Conversation) -> None:
    assert OPENAI_CHAT.write is not None
    plain = Conversation(conversation.messages, {}, "a:1")
    row = OPENAI_CHAT.write(plain)
    with_null = {"messages": [{"refusal": None, **turn} for turn in row["messages"]], "tools": None}  # type: ignore[attr-defined]
    assert essence(FORMATS["openai-chat"].read(Row(with_null, "a", 1))) == essence(plain)
