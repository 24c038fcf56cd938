import pytest
from conversations import codes, losses, say, texts
from hypothesis import given

from kivnun.data.conversation import Conversation
from kivnun.data.formats.text import TEXT
from kivnun.data.rows import Row


@given(text=texts)
def test_a_text_is_learnt_whole_and_comes_back(text: str) -> None:
    got = TEXT.read(Row({"text": text, "source": "ספר"}, "a", 1))
    assert got.messages == (say("assistant", text),)
    assert TEXT.write is not None
    assert TEXT.write(got) == {"text": text, "source": "ספר"}


@pytest.mark.parametrize(
    ("fields", "code"), [({}, "field-missing"), ({"text": None}, "field-null"), ({"text": []}, "field-type")]
)
def test_the_text_must_be_there(fields: dict[str, object], code: str) -> None:
    assert codes(TEXT, fields) == [code]


@pytest.mark.parametrize(
    "messages",
    [(), (say("user", "a"),), (say("user", "a"), say("assistant", "b")), (say("system", "a"), say("assistant", "b"))],
)
def test_turns_are_a_loss(messages: tuple) -> None:
    assert losses(TEXT, Conversation(messages, {}, "a:1"))


def test_a_further_column_of_the_same_name_is_a_loss() -> None:
    assert losses(TEXT, Conversation((say("assistant", "a"),), {}, "a:1", extra={"text": "b"}))
