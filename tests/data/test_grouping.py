"""Groups: equal rows, near duplicates and rows of one value stay together; what all rows share makes none alike."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.conversation import Conversation, Message
from kivnun.data.duplicates.words import comparable
from kivnun.data.grouping import Groups, asked_text, group_rows, opening

SENTENCES = (
    "the committee postponed its decision until the second half of the year",
    "איזה רגש מביע המשפט הזה בעיניך ולמה דווקא הרגש הזה",
    "my bicycle was stolen from the yard while we were having breakfast outside",
    "היא נסעה לבדה ברכבת האחרונה אל העיר שבה נולדה לפני שנים רבות",
    "nobody expected that the small shop on the corner would close so soon",
    "the recipe asks for three eggs, a cup of sugar and a little patience",
    "אחרי הגשם יצאנו לשדה לקטוף פטריות וחזרנו הביתה עם סל ריק",
    "he repaired the old radio in one evening and gave it to his neighbour",
)


def talk(*turns: tuple[str, str], where: str = "a.jsonl:1") -> Conversation:
    messages = tuple(Message(role, text, trained=role == "assistant") for role, text in turns)
    return Conversation(messages, {}, where)


def members(groups: Groups) -> set[frozenset[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for row, number in enumerate(groups.numbers):
        found[number].add(row)
    return {frozenset(rows) for rows in found.values()}


def group_texts(texts: list[str]) -> Groups:
    return group_rows([f"row {row}" for row in range(len(texts))], inputs=[comparable(text) for text in texts])


def test_rows_that_differ_stand_alone() -> None:
    assert members(group_texts(list(SENTENCES))) == {frozenset({row}) for row in range(len(SENTENCES))}


def test_equal_rows_are_one_group_even_if_near_duplicates_are_ignored() -> None:
    assert members(group_rows(["a", "b", "a", "c"])) == {frozenset({0, 2}), frozenset({1}), frozenset({3})}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_with_another_case_punctuation_or_ending_stays_with_it(sentence: str) -> None:
    texts = [*SENTENCES, sentence.upper() + "!", sentence + "s"]
    row = SENTENCES.index(sentence)
    assert frozenset({row, 8, 9}) in members(group_texts(texts))


def test_short_questions_stay_together_only_if_their_words_are_the_same() -> None:
    assert members(group_texts(["כן", "כן!", "לא", "no", "now"])) == {
        frozenset({0, 1}),
        frozenset({2}),
        frozenset({3}),
        frozenset({4}),
    }


def test_rows_of_one_value_stay_together_and_chains_are_followed() -> None:
    texts = [SENTENCES[0], SENTENCES[0] + "!", SENTENCES[1], SENTENCES[2]]
    groups = group_rows(list("abcd"), inputs=[comparable(text) for text in texts], keys=["x", "y", "y", "z"])
    assert members(groups) == {frozenset({0, 1, 2}), frozenset({3})}


def test_a_missing_value_joins_nothing() -> None:
    assert members(group_rows(list("abc"), keys=[None, None, "x"])) == {frozenset({row}) for row in range(3)}


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_text(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS + "   ", k=length))  # noqa: S311


INSTRUCTION = "Classify the following customer message into one of the categories that are listed below, and say why: "


def test_an_instruction_that_all_rows_share_makes_them_no_near_duplicates() -> None:
    words = ["sun", "rain", "wind", "snow", "fog", "hail", "ice", "dew", "storm", "frost", "mist", "heat"]
    texts = [f"{INSTRUCTION}{one} {other}\nAnswer with one word only please." for one in words for other in words]
    assert len(members(group_texts(texts))) == len(texts)


def test_near_duplicates_behind_a_shared_instruction_are_found() -> None:
    texts = [INSTRUCTION + random_text(number, 60) for number in range(64)]
    assert members(group_texts([*texts, texts[5] + "!"])) == {
        *(frozenset({row}) for row in range(64) if row != 5),
        frozenset({5, 64}),
    }


def test_a_prompt_that_many_different_rows_have_is_no_question() -> None:
    texts = ["Write a tagline."] * 30 + list(SENTENCES)
    groups = group_texts(texts)
    assert len(members(groups)) == len(texts)
    assert groups.notes == ("30 different rows ask the same ('write a tagline'): they are not kept together for that",)


def test_a_large_group_is_said() -> None:
    groups = group_rows([f"row {row}" for row in range(40)], keys=[min(row, 30) for row in range(40)])
    assert groups.notes == ("10 of 40 different rows stay together in one group",)


def test_copies_of_one_row_are_no_large_group() -> None:
    assert group_rows(["same"] * 50 + [f"row {row}" for row in range(20)]).notes == ()


@given(
    st.lists(st.tuples(st.sampled_from(SENTENCES), st.sampled_from(["", "!", "s", " 2", " and"])), min_size=2),
    st.data(),
)
def test_the_order_of_the_rows_does_not_matter(parts, data) -> None:
    texts = [sentence + ending for sentence, ending in parts]
    order = data.draw(st.permutations(range(len(texts))))
    first = members(group_texts(texts))
    again = members(group_texts([texts[row] for row in order]))
    assert first == {frozenset(order[row] for row in rows) for rows in again}


def test_groups_of_many_rows_that_are_all_alike_do_not_follow_their_order() -> None:
    chance = random.Random(3)  # noqa: S311
    # One word: nothing at its beginning counts as an instruction.
    base = random_text(4, 150).replace(" ", "x")
    texts = []
    for _ in range(60):
        changed = list(base)
        for _ in range(3):
            changed[chance.randrange(150)] = chance.choice(LETTERS)
        texts.append("".join(changed))
    order = chance.sample(range(60), 60)
    again = members(group_texts([texts[row] for row in order]))
    assert members(group_texts(texts)) == {frozenset(order[row] for row in rows) for rows in again}


def test_what_a_row_asks_is_its_turns_before_the_answer() -> None:
    row = talk(
        ("system", "Be kind."), ("user", "Hello, you!"), ("assistant", "Hi"), ("user", "Who?"), ("assistant", "I")
    )
    assert asked_text(row) == "hello you hi who"


def test_what_a_row_of_a_template_asks_is_its_fields() -> None:
    messages = talk(("user", "Text: A  B\nTone:"), ("assistant", "joy")).messages
    row = Conversation(messages, {"text": "A  B!", "tone": "joy"}, "a.jsonl:1")
    assert asked_text(row, ("text",)) == "a b"


def test_rows_that_open_alike_are_pieces_of_one_conversation() -> None:
    first = talk(("user", "Hello."), ("assistant", "Hi"))
    longer = talk(("user", "hello"), ("assistant", "Hi there"), ("user", "And now?"), ("assistant", "Bye"))
    other = talk(("system", "Be kind."), ("user", "Hello."), ("assistant", "Hi"))
    assert opening(first) == opening(longer) != opening(other)


def test_rows_with_too_few_words_of_their_own_are_compared_whole() -> None:
    asks = ["reset", "a password", "bicycle wheels", "rye bread", "tomato plants", "wool socks", "old radio sets"]
    texts = [f"please tell me now {verb} {ask}" for ask in asks for verb in ("fix", "buy", "see", "use")]
    groups = group_texts([*texts, "please tell me now fix tomato plant"])
    assert frozenset({16, 28}) in members(groups)
    assert groups.notes == ()


def test_many_rows_that_differ_in_a_few_words_only_are_said_to_be_kept_apart() -> None:
    words = ["sun", "rain", "wind", "snow", "fog", "hail", "ice", "dew", "storm", "frost", "mist", "heat"]
    texts = [f"{INSTRUCTION}{one} {other}" for one in words for other in words]
    groups = group_texts([*texts, *SENTENCES])
    assert len(members(groups)) == len(texts) + len(SENTENCES)
    assert groups.notes == (
        "144 different inputs are alike in all but a few words ('classify the following customer messa...'): "
        "they are not kept together for that",
    )
