import pytest
from conversations import codes, losses, say, write_and_read

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.bedrock import BEDROCK_CLAUDE
from kivnun.data.rows import Row

TURNS = [{"role": "user", "content": "שלום"}, {"role": "assistant", "content": "היי"}]
READ = (say("system", "ענה"), say("user", "שלום"), say("assistant", "היי"))


def row(*messages: Message) -> Conversation:
    return Conversation(messages, {}, "rows.jsonl:3")


@pytest.mark.parametrize("system", ["ענה", [{"text": "ענה"}], '[{"text": "ענה"}]'])
@pytest.mark.parametrize("content", ["שלום", [{"type": "text", "text": "שלום"}], [{"text": "שלו"}, {"text": "ם"}]])
def test_system_and_content_may_be_texts_or_lists_of_them(system: object, content: object) -> None:
    turns = [{"role": "user", "content": content}, TURNS[1]]
    assert BEDROCK_CLAUDE.read(Row({"system": system, "messages": turns}, "a", 1)).messages == READ


def test_rows_are_recognised_by_the_system_text_beside_the_turns() -> None:
    assert BEDROCK_CLAUDE.recognise({"system": "ענה", "messages": TURNS})
    assert BEDROCK_CLAUDE.recognise({"messages": TURNS}) is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([], "content-missing"),
        (None, "content-missing"),
        ([{"type": "image"}], "content-type"),
        ({"a": 1}, "content-type"),
    ],
)
def test_content_that_is_no_text_is_refused(content: object, code: str) -> None:
    assert codes(BEDROCK_CLAUDE, {"messages": [{"role": "user", "content": content}]}) == [code]


def test_a_system_that_is_no_text_is_refused() -> None:
    assert codes(BEDROCK_CLAUDE, {"system": [{"image": 1}], "messages": TURNS}) == ["field-type"]


def test_it_is_written_with_no_other_keys() -> None:
    assert BEDROCK_CLAUDE.write is not None
    assert BEDROCK_CLAUDE.write(row(*READ)) == {"system": "ענה", "messages": TURNS}
    assert BEDROCK_CLAUDE.write(row(*READ[1:])) == {"messages": TURNS}
    assert write_and_read(BEDROCK_CLAUDE, row(*READ)).messages == READ


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ((), "no turns"),
        ((say("user", "a"),), "last turn"),
        ((say("assistant", "a"),), "first turn"),
        ((say("user", "a"), say("user", "b"), say("assistant", "c")), "follow each other"),
        ((say("system", ""), say("user", "b"), say("assistant", "c")), "empty"),
        (
            (say("user", "a"), say("assistant", "b"), say("system", "s"), say("user", "c"), say("assistant", "d")),
            "system",
        ),
        ((say("user", "a"), Message("assistant", "b", trained=False)), "weight"),
    ],
)
def test_turns_that_bedrock_would_refuse_are_refused_here(messages: tuple[Message, ...], word: str) -> None:
    assert any(word in loss for loss in losses(BEDROCK_CLAUDE, row(*messages)))
