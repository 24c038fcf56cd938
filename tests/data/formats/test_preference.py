import pytest
from conversations import findings, losses, say

from kivnun.data.conversation import Conversation
from kivnun.data.formats.preference import PREFERENCE
from kivnun.data.rows import Row

ASK = {"role": "user", "content": "שאלה"}
GOOD, BAD = {"role": "assistant", "content": "טוב"}, {"role": "assistant", "content": "רע"}


def read(**fields: object) -> Conversation:
    return PREFERENCE.read(Row(fields, "p.json", 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "שאלה", "chosen": "טוב", "rejected": "רע"},
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "שאלה", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"conversations": [{"from": "human", "value": "שאלה"}], "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [{"from": "human", "value": "שאלה"}],
            "chosen": {"from": "gpt", "value": "טוב"},
            "rejected": {"from": "gpt", "value": "רע"},
        },
        {"messages": [ASK], "chosen": GOOD, "rejected": BAD},
        {"instruction": "שאלה", "input": "", "chosen": "טוב", "rejected": "רע"},
        {"prompt": "שאלה", "chosen": '[{"role": "assistant", "content": "טוב"}]', "rejected": "רע"},
    ],
)
def test_every_shape_gives_the_same_row(fields: dict[str, object]) -> None:
    conversation = read(**fields)
    assert conversation.messages == (say("user", "שאלה"), say("assistant", "טוב"))
    assert conversation.rejected is not None
    assert (conversation.rejected.content, conversation.rejected.trained) == ("רע", False)
    assert conversation.extra == {}
    assert PREFERENCE.recognise(fields)


def test_a_prompts_answers_are_not_trained_and_further_keys_are_kept() -> None:
    conversation = read(prompt=[ASK, BAD, ASK], chosen=[GOOD], rejected=[BAD], system="s", score=1, messages=[ASK])
    assert [(turn.role, turn.trained) for turn in conversation.messages] == [
        *(("system", False), ("user", False), ("assistant", False), ("user", False), ("assistant", True)),
    ]
    assert conversation.extra == {"score": 1, "messages": [ASK]}


def test_calls_before_both_answers_belong_to_the_prompt() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    result = {"role": "tool", "content": "1"}
    conversation = read(prompt=[ASK], chosen=[call, result, GOOD], rejected=[call, result, BAD])
    assert [turn.role for turn in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].tool_call_id == "call_1"
    assert [turn.trained for turn in conversation.messages] == [False, False, False, True]


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"prompt": "x", "chosen": "a"}, "field-missing", "`rejected` is missing"),
        ({"prompt": "x", "chosen": None, "rejected": "b"}, "field-null", "`chosen` is null"),
        ({"chosen": "a", "rejected": "b"}, "field-missing", "`prompt` is missing"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "field-missing", "`prompt` is missing"),
        ({"prompt": "x", "chosen": [], "rejected": "b"}, "messages-empty", "`chosen` has no turns"),
        ({"prompt": "x", "chosen": [ASK], "rejected": "b"}, "field-type", "got role 'user'"),
        ({"prompt": "x", "chosen": {"text": "a"}, "rejected": "b"}, "role-unknown", "chosen"),
        ({"chosen": [ASK, GOOD], "rejected": [BAD, BAD]}, "field-type", "differ before their last turns"),
        ({"prompt": "other", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, "field-type", "'other'"),
        ({"prompt": {"a": 1}, "chosen": "a", "rejected": "b"}, "field-type", "`prompt` should be text"),
    ],
)
def test_a_broken_row_is_refused_with_its_code(fields: dict[str, object], code: str, said: str) -> None:
    found, message = findings(PREFERENCE, fields)[0]
    assert (found, said in message) == (code, True), message


def test_a_row_without_a_rejected_answer_or_a_prompt_has_no_place() -> None:
    assert losses(PREFERENCE, Conversation((say("assistant", "a"),), {}, "a:1", extra={"prompt": 1})) == [
        "it has no rejected answer",
        "its further key `prompt` has another meaning in this format",
        "no turn comes before the answer, and the format needs a prompt",
    ]
