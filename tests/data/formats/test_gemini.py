import json
from dataclasses import replace

import pytest
from conversations import codes, conversations, findings, losses, say, write_and_read
from hypothesis import given
from test_containers import respaced

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.formats.gemini import GEMINI
from kivnun.data.rows import Row

WEATHER = {"name": "get_weather", "args": {"city": "חיפה"}}
DECLARED = {"name": "get_weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}}


def text_turn(role: str, *texts: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


def read(**fields: object) -> Conversation:
    return GEMINI.read(Row(fields, "rows.jsonl", 3))


def part_codes(part: object, role: str = "user") -> list[str]:
    return codes(GEMINI, {"contents": [{"role": role, "parts": [part]}]})


def row_of(*messages: Message, **more: object) -> Conversation:
    return Conversation(messages, {}, "rows.jsonl:3", **more)  # type: ignore[arg-type]


def test_turns_and_the_system_instruction_become_messages() -> None:
    got = read(
        systemInstruction={"role": "ignored", "parts": [{"text": "ענה "}, {"text": "בקצרה"}]},
        contents=[text_turn("user", "מהי בירת צרפת?"), text_turn("model", "פריז", ".")],
    )
    assert got.messages == (say("system", "ענה בקצרה"), say("user", "מהי בירת צרפת?"), say("assistant", "פריז."))
    assert got.where == "rows.jsonl:3"


@pytest.mark.parametrize("key", ["systemInstruction", "system_instruction"])
def test_the_system_instruction_has_two_spellings_and_may_be_a_text(key: str) -> None:
    got = read(**{key: "Be kind", "contents": [text_turn("user", "שלום")]})
    assert got.messages[0] == say("system", "Be kind")


def test_both_spellings_at_once_would_lose_one() -> None:
    row = {"systemInstruction": "a", "system_instruction": "b", "contents": [text_turn("user", "c")]}
    assert codes(GEMINI, row) == ["field-unknown"]


def test_calls_and_results_are_read_in_both_spellings_and_joined_by_made_ids() -> None:
    for call, result in (("functionCall", "functionResponse"), ("function_call", "function_response")):
        answer = {"name": "get_weather", "response": {"temperature": 21}}
        got = read(
            contents=[
                text_turn("user", "מה מזג האוויר?"),
                {"role": "model", "parts": [{"text": "רגע"}, {call: WEATHER}, {call: WEATHER}]},
                {"role": "user", "parts": [{result: answer}, {result: {**answer, "response": {"output": "חם"}}}]},
                text_turn("model", "21"),
            ],
            tools=[{"functionDeclarations": [DECLARED]}],
        )
        asked, first, second = got.messages[1:4]
        assert asked.content == "רגע"
        assert [(one.id, json.loads(one.arguments)) for one in asked.tool_calls] == [
            ("call_1", {"city": "חיפה"}),
            ("call_2", {"city": "חיפה"}),
        ]
        assert (first.role, first.tool_call_id, json.loads(first.content)) == ("tool", "call_1", {"temperature": 21})
        assert (second.tool_call_id, second.content) == ("call_2", "חם")
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
        assert got.tools == ({"type": "function", "function": {"name": "get_weather", "parameters": parameters}},)


def test_an_id_of_a_call_is_kept() -> None:
    got = read(
        contents=[
            {"role": "model", "parts": [{"functionCall": {**WEATHER, "id": "x7"}}]},
            {"role": "function", "parts": [{"functionResponse": {"name": "get_weather", "id": "x7", "response": {}}}]},
        ]
    )
    assert [got.messages[0].tool_calls[0].id, got.messages[1].tool_call_id] == ["x7", "x7"]


def test_a_text_behind_a_result_is_a_turn_of_its_own() -> None:
    result = {"functionResponse": {"name": "get_weather", "response": {"output": "21"}}}
    got = read(contents=[{"role": "user", "parts": [{"text": "הנה"}, result, {"text": "ומחר?"}]}])
    assert [(turn.role, turn.content) for turn in got.messages] == [("user", "הנה"), ("tool", "21"), ("user", "ומחר?")]


def test_pictures_keep_their_places_and_types() -> None:
    parts = [
        {"text": "מה "},
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
        {"text": "זה?"},
        {"file_data": {"mime_type": "image/webp", "file_uri": "gs://bucket/picture"}},
    ]
    images = (
        Image(3, "data:image/png;base64,QUJD", mime_type="image/png"),
        Image(6, "gs://bucket/picture", mime_type="image/webp"),
    )
    got = read(contents=[{"role": "user", "parts": parts}])
    assert got.messages == (Message("user", "מה זה?", trained=False, images=images),)
    assert write_and_read(GEMINI, got).messages == got.messages


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"text": 7}, "content-type"),
        ({"text": "a", "functionCall": WEATHER}, "content-type"),
        ({}, "content-type"),
        ("a", "content-type"),
        ({"text": "a", "thought": True}, "field-unknown"),
        ({"executableCode": {"code": "1"}}, "content-type"),
        ({"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v"}}, "content-type"),
        ({"fileData": {"mimeType": "image/png"}}, "content-type"),
        ({"inlineData": {"data": "QUJD"}}, "content-type"),
        ({"functionCall": WEATHER}, "content-type"),
        ({"functionResponse": {"response": {}}}, "field-missing"),
        ({"functionResponse": {"name": "f", "response": "21"}}, "content-type"),
    ],
)
def test_a_part_that_cannot_be_kept_is_refused(part: object, code: str) -> None:
    assert part_codes(part) == [code]


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": "QUJD"}}, "image-on-answer"),
        ({"functionResponse": {"name": "f", "response": {}}}, "content-type"),
        ({"functionCall": {"args": {}}}, "field-missing"),
        ({"functionCall": {"name": "f", "args": "{}"}}, "field-type"),
        ({"functionCall": {"name": "f", "argz": {"a": 1}}}, "field-unknown"),
    ],
)
def test_a_part_that_no_answer_has_is_refused(part: object, code: str) -> None:
    assert part_codes(part, "model") == [code]


def test_a_text_behind_a_call_would_change_its_place() -> None:
    parts = [{"functionCall": WEATHER}, {"text": "רגע"}]
    assert codes(GEMINI, {"contents": [{"role": "model", "parts": parts}]}) == ["content-type"]


def test_everything_that_is_wrong_is_said_at_once_with_its_turn() -> None:
    contents = [{"role": "assistant", "parts": [{"text": "a"}]}, "b", {"role": "user"}, {"role": "user", "part": []}]
    got = findings(GEMINI, {"contents": contents, "tools": [{"googleSearch": {}}]})
    assert [code for code, _ in got] == [
        "role-unknown",
        "message-type",
        "content-missing",
        "content-missing",
        "tools-invalid",
    ]
    assert got[0][1].startswith("turn 1 has role 'assistant'")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("missing", "field-missing"),
        (None, "field-null"),
        ([], "messages-empty"),
        ("[]", "messages-empty"),
        (3, "field-type"),
    ],
)
def test_rows_without_turns_are_refused(value: object, code: str) -> None:
    assert codes(GEMINI, {} if value == "missing" else {"contents": value}) == [code]


def test_contents_may_be_json_text_in_a_cell_of_a_table() -> None:
    got = read(contents=json.dumps([text_turn("user", "שלום"), text_turn("model", "היי")], ensure_ascii=False))
    assert got.messages == (say("user", "שלום"), say("assistant", "היי"))


def test_a_row_for_reinforcement_keeps_its_references() -> None:
    got = read(contents=[text_turn("user", "2+2?")], references={"answer": "4"})
    assert got.extra == {"references": {"answer": "4"}}
    assert GEMINI.write is not None
    assert GEMINI.write(got) == {"contents": [text_turn("user", "2+2?")], "references": {"answer": "4"}}


def test_results_of_one_turn_share_one_content() -> None:
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "g", '{"x": 1}'))
    results = (
        Message("tool", '{"y": 2}', trained=False, tool_call_id="a", name="f"),
        Message("tool", "טקסט", trained=False, tool_call_id="b", name="g"),
    )
    turn = Message("assistant", "", trained=True, tool_calls=calls)
    assert GEMINI.write is not None
    written = GEMINI.write(row_of(say("user", "?"), turn, *results, say("assistant", "!")))
    assert written["contents"] == [
        text_turn("user", "?"),
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "g", "args": {"x": 1}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "f", "response": {"y": 2}}},
                {"functionResponse": {"name": "g", "response": {"output": "טקסט"}}},
            ],
        },
        text_turn("model", "!"),
    ]


@pytest.mark.parametrize(
    "arguments", ["", "[1]", "not json", '{"a": 1, "a": 2}', '{"a": 18446744073709551617}', '{"a": NaN}', "[" * 2000]
)
def test_arguments_that_are_no_plain_object_are_a_loss(arguments: str) -> None:
    turn = Message("assistant", "", trained=True, tool_calls=(ToolCall("a", "f", arguments),))
    assert len(losses(GEMINI, row_of(say("user", "?"), turn))) == 1


@pytest.mark.parametrize("result", ['{"output": "x"}', '{"a": 1, "a": 2}', "21", "", '{"a": 18446744073709551617}'])
def test_a_result_that_no_object_can_stand_for_is_kept_as_text(result: str) -> None:
    turn = Message("assistant", "", trained=True, tool_calls=(ToolCall("call_1", "f", "{}"),))
    answer = Message("tool", result, trained=False, tool_call_id="call_1", name="f")
    row = row_of(say("user", "?"), turn, answer)
    assert write_and_read(GEMINI, row).messages == row.messages


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (row_of(say("user", "a"), replace(say("assistant", "b"), trained=False)), "weight 0"),
        (row_of(say("developer", "a"), say("assistant", "b")), "developer"),
        (row_of(say("user", "a"), say("system", "s"), say("assistant", "b")), "system turn"),
        (row_of(replace(say("user", "a"), name="דנה"), say("assistant", "b")), "name"),
        (row_of(say("user", "a"), say("assistant", "b"), extra={"id": 7}), "`id`"),
        (row_of(say("user", "a"), say("assistant", "b"), rejected=say("assistant", "c")), "rejected"),
        (row_of(say("user", "a"), say("assistant", "b"), desirable=True), "label"),
        (row_of(say("user", "a"), say("assistant", "b"), parallel_tool_calls=True), "parallel"),
        (row_of(), "no turns"),
        (row_of(say("system", "s")), "no turns"),
        (row_of(replace(say("user", "a"), images=(Image(0, "https://x.org/a"),))), "type"),
        (row_of(replace(say("user", "a"), images=(Image(0, "https://x.org/a.png", "high"),))), "detail"),
        (row_of(replace(say("user", "a"), images=(Image(0, "data:image/png,abc"),))), "base64"),
        (row_of(replace(say("system", "a"), images=(Image(0, "gs://x/a.png"),)), say("user", "b")), "pictures"),
        (row_of(Message("tool", "a", trained=False)), "names no function"),
        (row_of(say("user", "a"), tools=({"type": "function", "function": {"name": "f", "strict": True}},)), "strict"),
        (row_of(say("user", "a"), tools=({"type": "retrieval"},)), "no function"),
    ],
)
def test_what_gemini_cannot_hold_is_named(row: Conversation, word: str) -> None:
    found = losses(GEMINI, row)
    assert len(found) == 1
    assert word in found[0]


def test_results_that_only_ids_could_tell_apart_are_a_loss() -> None:
    turn = Message("assistant", "", trained=True, tool_calls=tuple(ToolCall(name, "f", "{}") for name in "ab"))
    results = [Message("tool", name, trained=False, tool_call_id=name, name="f") for name in "ab"]
    assert losses(GEMINI, row_of(say("user", "?"), turn, *results)) == []
    assert len(losses(GEMINI, row_of(say("user", "?"), turn, *reversed(results)))) == 1


def test_a_picture_of_openai_goes_there_and_back_with_the_type_that_its_address_tells() -> None:
    row = row_of(replace(say("user", "מה זה?"), images=(Image(0, "https://example.org/א.png?w=3"),)))
    assert GEMINI.write is not None
    part = {"fileData": {"mimeType": "image/png", "fileUri": "https://example.org/א.png?w=3"}}
    assert GEMINI.write(row)["contents"] == [{"role": "user", "parts": [part, {"text": "מה זה?"}]}]
    assert write_and_read(GEMINI, row).messages == row.messages


def tamed(conversation: Conversation) -> Conversation:
    """A conversation without what Gemini has no place for, so that the property below is about the rest."""
    kept = [message for message in conversation.messages if message.role in ("user", "assistant", "tool")]
    plain = (replace(message, name="" if message.role != "tool" else message.name) for message in kept)
    turns = [
        replace(
            message,
            trained=message.role == "assistant",
            weight=1.0,
            images=tuple(replace(image, detail="") for image in message.images),
        )
        for message in plain
    ]
    return replace(conversation, messages=(say("system", "ענה"), *turns), extra={}, parallel_tool_calls=None)


@given(conversation=conversations().map(tamed))
def test_pictures_tools_calls_and_results_survive(conversation: Conversation) -> None:
    assert [
        loss for loss in losses(GEMINI, conversation) if "in order" not in loss and "no JSON object" not in loss
    ] == []
    if not losses(GEMINI, conversation):
        assert respaced(write_and_read(GEMINI, conversation)) == respaced(conversation)
