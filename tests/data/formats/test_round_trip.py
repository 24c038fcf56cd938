import pytest
from conversations import (
    any_conversations,
    essence,
    kto_conversations,
    losses,
    pairs,
    plain_conversations,
    preference_conversations,
    reinforcement_conversations,
    write_and_read,
)
from hypothesis import given, settings

from kivnun.data.conversation import Conversation
from kivnun.data.formats import FORMATS

JUDGED = ("openai-preference", "preference", "kto", "openai-reinforcement")
HOLD_TURNS = ("openai-chat", "alpaca", "sharegpt")
HOLD_PAIRS = (*HOLD_TURNS, "prompt-completion")


def detect_written(name: str, conversation: Conversation) -> str:
    write = FORMATS[name].write
    assert write is not None
    row = write(conversation)
    return next(known for known, format_ in FORMATS.items() if format_.recognise(row))


@pytest.mark.parametrize("name", [*HOLD_PAIRS, *JUDGED])
@given(conversation=any_conversations())
def test_what_is_written_reads_as_the_same_conversation_or_is_refused_as_a_loss(
    name: str, conversation: Conversation
) -> None:
    format_ = FORMATS[name]
    if not losses(format_, conversation):
        assert essence(write_and_read(format_, conversation)) == essence(conversation)


@pytest.mark.parametrize("name", HOLD_TURNS)
@settings(max_examples=30)
@given(conversation=plain_conversations())
def test_questions_and_answers_fit_every_format_of_turns(name: str, conversation: Conversation) -> None:
    assert losses(FORMATS[name], conversation) == []
    assert detect_written(name, conversation) == name


@pytest.mark.parametrize("name", HOLD_PAIRS)
@settings(max_examples=30)
@given(conversation=pairs())
def test_one_question_and_its_answer_fit_every_format(name: str, conversation: Conversation) -> None:
    assert losses(FORMATS[name], conversation) == []
    assert detect_written(name, conversation) == name


@pytest.mark.parametrize("name", JUDGED)
@given(conversation=preference_conversations() | kto_conversations() | reinforcement_conversations())
def test_rows_that_judge_answers_are_detected_as_what_they_were_written_as(
    name: str, conversation: Conversation
) -> None:
    if not losses(FORMATS[name], conversation):
        assert detect_written(name, conversation) == name
