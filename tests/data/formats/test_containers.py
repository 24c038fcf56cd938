"""Round trips of every format that is written: through its own rows, and through every kind of file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conversations import any_conversations, essence, losses, pairs, plain_conversations, write_and_read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Message
from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.read import stream_rows
from kivnun.data.files.write import open_writer
from kivnun.data.formats import FORMATS
from kivnun.data.rows import Row

WRITABLE = [name for name, format_ in FORMATS.items() if format_.write is not None]
MINE = ("gemini", "gemini-preference", "gemini-1.0", "palm-text", "palm-chat", "bedrock-claude", "columns", "text")
HOLD_TURNS = ("gemini", "gemini-1.0", "palm-chat", "bedrock-claude")
HOLD_PAIRS = (*HOLD_TURNS, "palm-text", "columns")


def respaced(conversation: Conversation) -> Conversation:
    """Without the spaces in results that are JSON: Gemini holds what they say and not how it was written."""
    messages = (_respace(message) for message in essence(conversation).messages)
    return replace(essence(conversation), messages=tuple(messages))


def _respace(message: Message) -> Message:
    if message.role == "tool" and message.content.startswith("{"):
        try:
            return replace(message, content=json.dumps(json.loads(message.content)))
        except ValueError:
            return message
    return message


@pytest.mark.parametrize("name", MINE)
@given(conversation=any_conversations())
def test_what_is_written_reads_as_the_same_conversation_or_is_refused_as_a_loss(
    name: str, conversation: Conversation
) -> None:
    if not losses(FORMATS[name], conversation):
        assert respaced(write_and_read(FORMATS[name], conversation)) == respaced(conversation)


@pytest.mark.parametrize("name", HOLD_TURNS)
@given(conversation=plain_conversations())
def test_questions_and_answers_fit_every_format_of_turns(name: str, conversation: Conversation) -> None:
    assert losses(FORMATS[name], conversation) == []


@pytest.mark.parametrize("name", HOLD_PAIRS)
@given(conversation=pairs())
def test_one_question_and_its_answer_fit_and_are_detected_again(name: str, conversation: Conversation) -> None:
    write = FORMATS[name].write
    assert write is not None
    row = write(conversation)
    # Without a system turn Bedrock's rows are those of a plain OpenAI chat.
    expected = "openai-chat" if name == "bedrock-claude" else name
    assert next(known for known, format_ in FORMATS.items() if format_.recognise(row)) == expected


def through_file(name: str, conversations: Sequence[Conversation], path: Path, layout: str) -> list[Conversation]:
    """Conversations written in a format to a file, and read from it again."""
    format_ = FORMATS[name]
    assert format_.write is not None
    with open_writer(path) as writer:
        for conversation in conversations:
            writer.write(format_.write(conversation))
    file = DataFile(path, layout, "train", "")
    items = list(stream_rows(file, ReadOptions(header=True)))
    return [format_.read(item) for item in items if isinstance(item, Row)]


@pytest.mark.parametrize("name", WRITABLE)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    ending=st.sampled_from(["jsonl", "json", "csv", "parquet"]),
    drawn=st.lists(st.one_of(pairs(), any_conversations()), min_size=1, max_size=3),
)
def test_every_format_comes_back_from_every_kind_of_file(name: str, ending: str, drawn: list[Conversation]) -> None:
    # Tables know no types: `7` and "7" are one cell, and a column that some rows lack is an empty cell of those.
    rows = drawn if ending.startswith("json") else [replace(each, extra={}) for each in drawn]
    held = [each for each in rows if not losses(FORMATS[name], each)]
    if not held:
        return
    with TemporaryDirectory() as folder:
        got = through_file(name, held, Path(folder) / f"rows.{ending}", ending)
    assert [respaced(each) for each in got] == [respaced(each) for each in held]
