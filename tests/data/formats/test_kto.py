import pytest
from conversations import findings, losses, say

from kivnun.data.conversation import Conversation
from kivnun.data.formats.kto import KTO
from kivnun.data.rows import Row

TURNS = [
    {"role": "user", "content": "שאלה"},
    {"role": "assistant", "content": "ראשונה"},
    {"role": "user", "content": "עוד"},
    {"role": "assistant", "content": "שנייה"},
]


def read(**fields: object) -> Conversation:
    return KTO.read(Row(fields, "k.json", 1))


@pytest.mark.parametrize(("label", "desirable"), [(True, True), (False, False), ("true", True), (" False", False)])
def test_the_label_judges_the_last_answer_which_alone_is_trained(label: object, desirable: bool) -> None:
    conversation = read(messages=TURNS, label=label, id=4)
    assert [turn.trained for turn in conversation.messages] == [False, False, False, True]
    assert (conversation.desirable, conversation.extra) == (desirable, {"id": 4})


def test_the_shapes_of_trl_and_of_sharegpt_are_read_alike() -> None:
    expected = (say("user", "q"), say("assistant", "a"))
    assert read(prompt="q", completion="a", label=True).messages == expected
    assert read(prompt=[TURNS[0]], completion=[TURNS[1]], label=True).messages == (
        say("user", "שאלה"),
        say("assistant", "ראשונה"),
    )
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read(conversations=turns, label=True).messages == expected
    assert read(conversations=turns, label=True, system="s").messages == (say("system", "s"), *expected)


def test_keys_beside_the_turns_are_kept() -> None:
    assert read(messages=TURNS, label=True, prompt="שאלה").extra == {"prompt": "שאלה"}


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"messages": TURNS, "label": True}, True),
        ({"messages": TURNS, "label": "False"}, True),
        ({"messages": TURNS, "label": "joy"}, False),
        ({"messages": TURNS, "label": 1}, False),
        ({"messages": TURNS[:1], "label": True}, False),
        ({"prompt": "a", "completion": "b", "label": False}, True),
        ({"text": "a", "label": True}, False),
    ],
)
def test_it_is_recognised_by_a_true_or_false_label_of_an_answer(fields: dict[str, object], known: bool) -> None:
    assert (KTO.recognise(fields) is not None) == known


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": TURNS, "label": 1}, ("label-invalid", "field `label` should be true or false, got 1")),
        ({"messages": TURNS, "label": ""}, ("label-invalid", "field `label` is empty")),
        ({"messages": TURNS, "label": None}, ("field-null", "field `label` is null")),
        ({"messages": TURNS}, ("field-missing", "field `label` is missing")),
        ({"messages": [], "label": True}, ("messages-empty", "field `messages` has no turns")),
        ({"label": True}, ("field-missing", "field `messages` is missing")),
        ({"prompt": "x", "label": True}, ("field-missing", "field `completion` is missing")),
    ],
)
def test_a_broken_row_is_refused_with_its_code(fields: dict[str, object], expected: tuple[str, str]) -> None:
    assert findings(KTO, fields) == [expected]


def test_a_row_without_a_label_and_answers_before_the_last_have_no_place() -> None:
    turns = (say("user", "q"), say("assistant", "a"), say("user", "q"), say("assistant", "a"))
    assert losses(KTO, Conversation(turns, {}, "a:1", extra={"label": "joy"})) == [
        "it has no label, good or bad",
        "turn 2 is trained; the format trains the last turn only",
        "its further key `label` has another meaning in this format",
    ]
    assert losses(KTO, Conversation(turns[:1], {}, "a:1", desirable=True)) == [
        "the last turn is not the assistant's; the format ends with an answer"
    ]
