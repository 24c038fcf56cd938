import pytest
from conversations import findings, losses

from kivnun.data.conversation import Conversation, Image, Message
from kivnun.data.formats.openai_preference import OPENAI_PREFERENCE
from kivnun.data.rows import Row

ASK = {"role": "user", "content": "מה?"}
GOOD, BAD = {"role": "assistant", "content": "כך"}, {"role": "assistant", "content": "לא"}
ROW = {"input": {"messages": [ASK, BAD, ASK]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}


def read(fields: dict[str, object]) -> Conversation:
    return OPENAI_PREFERENCE.read(Row(fields, "p.jsonl", 1))


def test_only_the_preferred_answer_is_trained() -> None:
    conversation = read(ROW)
    assert [message.trained for message in conversation.messages] == [False, False, False, True]
    assert conversation.answer == "כך"
    assert conversation.rejected == Message("assistant", "לא", trained=False)


def test_both_spellings_are_read_and_the_guides_is_written() -> None:
    other = {"input": ROW["input"], "preferred_completion": [GOOD], "non_preferred_completion": [BAD]}
    assert OPENAI_PREFERENCE.write is not None
    assert read(other) == read(ROW)
    assert OPENAI_PREFERENCE.write(read(other)) == ROW


def test_an_answer_in_both_spellings_loses_neither() -> None:
    assert read(ROW | {"preferred_completion": [BAD]}).extra == {"preferred_completion": [BAD]}


def test_tools_stand_in_the_input() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    asked = {"messages": [ASK], "tools": [tool], "parallel_tool_calls": True}
    conversation = read(ROW | {"input": asked, "topic": "x"})
    assert (conversation.tools, conversation.parallel_tool_calls) == ((tool,), True)
    assert conversation.extra == {"topic": "x"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"input": None}, "field-null", "`input` is null"),
        ({"input": [ASK]}, "field-type", "`input` should be an object"),
        ({"input": {"messages": None}}, "field-null", "`messages` is null"),
        ({"input": {"messages": []}}, "messages-empty", "`input.messages` has no turns"),
        ({"input": {"messages": [5]}}, "message-type", "input.messages, turn 1"),
        ({"input": {"messages": [ASK], "mesages": [ASK]}}, "field-unknown", "did you mean `messages`?"),
        ({"preferred_output": None}, "field-null", "`preferred_output` is null"),
        ({"preferred_output": GOOD}, "field-type", "list of one assistant turn"),
        ({"preferred_output": [GOOD, GOOD]}, "field-type", "got 2 turns"),
        ({"non_preferred_output": []}, "field-type", "got 0 turns"),
        ({"non_preferred_output": [ASK]}, "field-type", "got role 'user'"),
        ({"non_preferred_output": [{"role": "bot", "content": "x"}]}, "role-unknown", "non_preferred_output, turn 1"),
    ],
)
def test_a_broken_row_is_refused_with_its_code_and_place(change: dict[str, object], code: str, said: str) -> None:
    [(found, message)] = findings(OPENAI_PREFERENCE, ROW | change)
    assert (found, said in message) == (code, True), message


def test_an_empty_input_lacks_its_messages() -> None:
    assert findings(OPENAI_PREFERENCE, ROW | {"input": {}}) == [("field-missing", "field `messages` is missing")]


def test_what_has_no_place_is_a_loss() -> None:
    picture = Message("user", "", trained=False, images=(Image(0, "http://a"),))
    answer = Message("assistant", "a", trained=True)
    assert losses(OPENAI_PREFERENCE, Conversation((picture, answer), {}, "a:1")) == [
        "it has no rejected answer",
        "turn 1 (user) has 1 picture(s)",
    ]
    unlearnt = Message("assistant", "a", trained=False)
    assert losses(OPENAI_PREFERENCE, Conversation((unlearnt,), {}, "a:1", rejected=unlearnt, extra={"k": 1})) == [
        "turn 1 (assistant) has weight 0; the format trains the last turn only",
        "it has the further key `k`",
        "no turn comes before the answer, and the format needs an input",
    ]
