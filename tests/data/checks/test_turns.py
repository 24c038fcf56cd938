"""Turns come in an order that can be learnt; pictures keep the rules of hosted services."""

import pytest
from talks import calls, codes, message, result, talk, turn

from kivnun.data.conversation import Conversation, Image, Message

S, U, A, D = ("system", "Be kind."), ("user", "What now?"), ("assistant", "Rest a little."), ("developer", "Be brief.")


@pytest.mark.parametrize(
    "turns",
    [(U, A), (S, U, A), (D, U, A), (U, A, U, A), (S, U, A, U, A, U, A)],
)
def test_turns_in_their_usual_order_pass(turns: tuple[tuple[str, str], ...]) -> None:
    assert codes(talk(*turns)) == []


@pytest.mark.parametrize(
    ("turns", "wrong"),
    [
        ((S, A), ["order-no-user"]),
        ((A,), ["order-no-user"]),
        ((S, U), ["order-no-assistant"]),
        ((U,), ["order-no-assistant"]),
        ((U, A, U), ["order-last"]),
        ((A, U, A), ["order-first"]),
        ((S, A, U, A), ["order-first"]),
        ((U, S, A), ["order-system"]),
        ((S, S, U, A), ["order-system"]),
        ((S, D, U, A), ["order-system"]),
        ((U, A, S, U, A), ["order-system"]),
        ((U, U, A), ["order-repeated"]),
        ((U, A, A), ["order-repeated"]),
        ((U, A, A, A, U), ["order-repeated", "order-last"]),
        ((S,), ["order-no-assistant", "order-no-user"]),
        ((), ["order-no-assistant", "order-no-user"]),
    ],
)
def test_turns_in_another_order_are_named(turns: tuple[tuple[str, str], ...], wrong: list[str]) -> None:
    assert codes(talk(*turns)) == wrong


def test_the_message_says_which_turns_are_meant_counted_from_one() -> None:
    assert message(talk(U, A, U), "order-last") == "turn 3, the last one, is a user turn"
    assert message(talk(S, U, A, A), "order-repeated") == "turns 3 and 4 are both assistant turns"
    assert message(talk(A, U, A), "order-first") == "turn 1 is a trained assistant turn; the first user turn is 2"
    assert message(talk(U, S, A), "order-system") == "turn 2 is a late system turn"
    assert message(talk(S, U, S, A), "order-system") == "turn 3 is a second system turn"
    assert message(talk(S, A), "order-no-user") == "no user turn among 2 (system, assistant)"
    assert message(talk(S, U), "order-no-assistant") == "no assistant turn among 2 (system, user)"


def test_a_greeting_that_is_not_learnt_may_come_first() -> None:
    assert codes(talk(turn("assistant", "Hello!", trained=False), U, A)) == []


def test_speakers_of_different_names_do_not_repeat_each_other() -> None:
    named = [turn("user", "What now?", name=name) for name in ("Dana", "Noam")]
    assert codes(talk(*named, A)) == []
    assert codes(talk(named[0], named[0], A)) == ["order-repeated"]


def test_results_of_several_calls_are_no_repeats() -> None:
    called = calls(("1", "a", "{}"), ("2", "a", "{}"))
    assert "order-repeated" not in codes(talk(U, called, result("1"), result("2"), A))


def test_a_row_for_reinforcement_ends_with_the_user() -> None:
    conversation = talk(U, extra={"reference": "rest"})
    assert codes(conversation) == []
    assert codes(conversation, "openai-reinforcement") == []
    assert codes(conversation, "openai-chat") == ["order-no-assistant"]
    assert codes(talk(U, extra={"id": 7})) == ["order-no-assistant"]


def test_a_plain_document_needs_no_user() -> None:
    document = talk(("assistant", "Once upon a time."), fields={"text": "Once upon a time."})
    assert codes(document) == []
    assert codes(talk(A), "text") == []
    assert codes(document, "openai-chat") == ["order-no-user"]


def pictured(*urls: str, mime_type: str = "") -> Conversation:
    return talk(turn("user", "What is it?", images=tuple(Image(0, url, "", mime_type) for url in urls)), A)


def test_ten_pictures_are_taken_and_eleven_are_not() -> None:
    assert codes(pictured(*["https://site.org/cat.png"] * 10)) == []
    eleven = pictured(*["https://site.org/cat.png"] * 11)
    assert message(eleven, "hosted-images") == "11 pictures; at most 10 are taken"


@pytest.mark.parametrize(
    "url", ["https://a.org/x.jpeg?size=2", "https://a.org/picture", "gs://b/x.png", "data:image/webp;base64,AAAA"]
)
def test_pictures_of_the_known_types_are_taken(url: str) -> None:
    assert codes(pictured(url)) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://a.org/x.GIF", "turn 1: a gif picture; JPEG, PNG and WEBP are taken"),
        ("data:image/bmp;base64,AAAA", "turn 1: a picture of type image/bmp; JPEG, PNG and WEBP are taken"),
        ("/home/dana/x.png", "turn 1: picture `/home/dana/x.png` is neither a web address nor a data URL"),
        (
            "data:image/png;base64," + "A" * (15 * 1024 * 1024),
            "turn 1: a picture of 11.2 MB; at most 10 MB are taken",
        ),
    ],
    ids=["type in the name", "type in the data", "place on a disk", "size"],
)
def test_other_pictures_are_refused(url: str, said: str) -> None:
    assert message(pictured(url), "hosted-images") == said


def test_a_type_that_the_file_tells_counts() -> None:
    assert codes(pictured("gs://b/x", mime_type="image/tiff")) == ["hosted-images"]


def test_a_row_without_turns_is_named_and_not_a_crash() -> None:
    assert codes(Conversation((), {}, "")) == ["order-no-assistant", "order-no-user"]
    assert Message("user", "", trained=False).images == ()
