import pytest
from conversations import codes, findings, losses, say

from kivnun.data.conversation import Conversation
from kivnun.data.formats.alpaca import ALPACA
from kivnun.data.rows import Row


def read(**fields: object) -> Conversation:
    return ALPACA.read(Row(fields, "a.json", 1))


@pytest.mark.parametrize(
    ("instruction", "given", "asked"),
    [("תרגם", "hello", "תרגם\nhello"), ("תרגם", "", "תרגם"), ("תרגם", None, "תרגם"), ("", "hello", "hello")],
)
def test_instruction_and_input_stand_on_lines_of_their_own(instruction: str, given: object, asked: str) -> None:
    conversation = read(instruction=instruction, input=given, output="שלום", id=1)
    assert conversation.messages == (say("user", asked), say("assistant", "שלום"))
    assert conversation.extra == {"id": 1}


def test_system_and_history_come_first_and_their_answers_are_trained() -> None:
    history = [["q1", "a1"], ["q2", "a2"]]
    conversation = read(instruction="q3", input="", output="a3", system="s", history=history)
    assert [(turn.role, turn.content, turn.trained) for turn in conversation.messages] == [
        ("system", "s", False),
        *(("user", "q1", False), ("assistant", "a1", True), ("user", "q2", False), ("assistant", "a2", True)),
        *(("user", "q3", False), ("assistant", "a3", True)),
    ]
    assert ALPACA.write is not None
    written = {"instruction": "q3", "input": "", "output": "a3", "system": "s", "history": history}
    assert ALPACA.write(conversation) == written
    assert read(**written | {"history": '[["q1", "a1"], ["q2", "a2"]]'}).messages == conversation.messages


def test_broken_rows_are_refused() -> None:
    assert codes(ALPACA, {"instruction": None, "output": 5}) == ["field-null"]
    assert codes(ALPACA, {"instruction": ["x"]}) == ["field-type", "field-missing"]
    row = {"instruction": "x", "output": "y", "history": [["q", "a"], ["q"], ["q", 5]]}
    assert [message for _, message in findings(ALPACA, row)] == [
        "history, pair 2 should be two texts, got ['q']",
        "history, pair 3 should be two texts, got ['q', 5]",
    ]
    assert codes(ALPACA, {"instruction": "x", "output": "y", "history": "before"}) == ["field-type"]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["user"], "its turns are user; the format holds questions and answers by turns"),
        (["assistant"], "its turns are assistant; the format holds questions and answers by turns"),
        (["user", "user", "assistant"], "its turns are user, user, assistant; the format holds"),
        (["user", "assistant", "user"], "its turns are user, assistant, user; the format holds"),
        (["user", "assistant", "system"], "turn 3 is a system turn; the format has one place for it, at the start"),
        (["developer", "user", "assistant"], "turn 1 is the developer's; the format knows system turns only"),
    ],
)
def test_other_turns_have_no_place(roles: list[str], said: str) -> None:
    [loss] = losses(ALPACA, Conversation(tuple(say(role, "x") for role in roles), {}, "a:1"))
    assert loss.startswith(said)


def test_an_empty_system_turn_would_be_lost() -> None:
    turns = (say("system", ""), say("user", "q"), say("assistant", "a"))
    assert losses(ALPACA, Conversation(turns, {}, "a:1")) == [
        "its system turn is empty, which the format cannot tell from none"
    ]
