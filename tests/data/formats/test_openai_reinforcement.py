from conversations import codes, losses

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.openai_reinforcement import OPENAI_REINFORCEMENT
from kivnun.data.rows import Row

ASK = {"role": "user", "content": "כמה זה 2+2?"}
TELL = {"role": "assistant", "content": "?"}


def test_no_turn_is_trained_and_the_keys_of_the_grader_are_kept() -> None:
    row = {"messages": [ASK, TELL, ASK], "reference": {"answer": 4}, "level": "קל"}
    conversation = OPENAI_REINFORCEMENT.read(Row(row, "r.jsonl", 1))
    assert [message.trained for message in conversation.messages] == [False, False, False]
    assert conversation.extra == {"reference": {"answer": 4}, "level": "קל"}
    assert OPENAI_REINFORCEMENT.write is not None
    assert OPENAI_REINFORCEMENT.write(conversation) == row


def test_it_is_recognised_by_a_last_turn_of_the_user_and_a_key_for_the_grader() -> None:
    recognise = OPENAI_REINFORCEMENT.recognise
    assert recognise({"messages": [ASK], "reference": 4}) == "has `messages` that end with the user, and `reference`"
    assert recognise({"messages": [ASK]}) is None
    assert recognise({"messages": [ASK], "tools": [], "reference": None}) is None
    assert recognise({"messages": [ASK, TELL], "reference": 4}) is None


def test_a_row_without_messages_is_refused() -> None:
    assert codes(OPENAI_REINFORCEMENT, {"reference": 1}) == ["field-missing"]
    assert codes(OPENAI_REINFORCEMENT, {"messages": [], "reference": 1}) == ["messages-empty"]


def test_an_answer_has_no_place() -> None:
    turns = (Message("user", "q", trained=False), Message("assistant", "a", trained=True))
    assert losses(OPENAI_REINFORCEMENT, Conversation(turns, {}, "a:1", extra={"tools": 1, "reference": 1})) == [
        "turn 2 is trained; the format trains no turn",
        "its further key `tools` has another meaning in this format",
        "the last turn is not the user's; a row for reinforcement ends with what is asked",
    ]
