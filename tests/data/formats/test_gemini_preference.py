import json

import pytest
from conversations import codes, losses, preference_conversations, say, write_and_read
from hypothesis import given
from test_containers import respaced

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.gemini_preference import GEMINI_PREFERENCE
from kivnun.data.rows import Row

ASKED = {"role": "user", "parts": [{"text": "מה תמליץ לערב?"}]}
GOOD = {"score": 1, "completion": {"role": "model", "parts": [{"text": "פסטה"}]}}
BAD = {"score": 0, "completion": {"role": "model", "parts": [{"text": "כלום"}]}}


def read(**fields: object) -> Conversation:
    return GEMINI_PREFERENCE.read(Row(fields, "rows.jsonl", 3))


@pytest.mark.parametrize("completions", [[GOOD, BAD], [BAD, GOOD], json.dumps([GOOD, BAD])])
def test_the_score_tells_which_answer_is_preferred_wherever_it_stands(completions: object) -> None:
    before = {"role": "model", "parts": [{"text": "היי"}]}
    got = read(
        system_instruction={"parts": [{"text": "ענה"}]}, contents=[ASKED, before, ASKED], completions=completions
    )
    untrained = Message("assistant", "היי", trained=False)
    asked = say("user", "מה תמליץ לערב?")
    assert got.messages == (say("system", "ענה"), asked, untrained, asked, say("assistant", "פסטה"))
    assert got.rejected == Message("assistant", "כלום", trained=False)


@pytest.mark.parametrize(
    ("completions", "expected"),
    [
        (None, ["field-null"]),
        ([], ["field-type"]),
        ([GOOD], ["field-type"]),
        ([GOOD, GOOD], ["field-type"]),
        ([GOOD, BAD, BAD], ["field-type"]),
        ([GOOD, {**BAD, "score": 0.5}], ["field-type"]),
        ([GOOD, {**BAD, "score": "0"}], ["field-type"]),
        ([GOOD, {**BAD, "rank": 2}], ["field-unknown"]),
        ([GOOD, {"score": 0, "completion": ASKED}], ["role-unknown"]),
        ([GOOD, {"score": 0}], ["message-type"]),
        ([GOOD, "כלום"], ["message-type", "field-type"]),
    ],
)
def test_completions_that_are_no_pair_are_refused(completions: object, expected: list[str]) -> None:
    assert codes(GEMINI_PREFERENCE, {"contents": [ASKED], "completions": completions}) == expected


def test_it_is_written_with_the_preferred_answer_first() -> None:
    rejected = Message("assistant", "כלום", trained=False)
    row = Conversation((say("system", "ענה"), say("user", "?"), say("assistant", "פסטה")), {}, "a:1", rejected=rejected)
    assert GEMINI_PREFERENCE.write is not None
    assert GEMINI_PREFERENCE.write(row) == {
        "system_instruction": {"role": "system", "parts": [{"text": "ענה"}]},
        "contents": [{"role": "user", "parts": [{"text": "?"}]}],
        "completions": [GOOD, BAD],
    }


@given(conversation=preference_conversations())
def test_pairs_survive_and_calls_and_pictures_are_refused(conversation: Conversation) -> None:
    found = losses(GEMINI_PREFERENCE, conversation)
    messages = conversation.messages
    if any(message.images or message.tool_calls or message.name for message in messages) or conversation.tools:
        assert found
    elif not found:
        assert respaced(write_and_read(GEMINI_PREFERENCE, conversation)) == respaced(conversation)


@pytest.mark.parametrize("row", [Conversation((), {}, "rows:1"), Conversation((say("user", "a"),), {}, "rows:1")])
def test_rows_without_a_pair_are_refused_as_a_loss(row: Conversation) -> None:
    assert any("rejected" in loss for loss in losses(GEMINI_PREFERENCE, row))
