from collections.abc import Sequence

import numpy as np

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.duplicates.fingerprint import Fingerprints, concatenate, fingerprint, input_words


def chat(*turns: tuple[str, str], learns: bool = True) -> Conversation:
    messages = tuple(Message(role, text, trained=learns and role == "assistant") for role, text in turns)
    return Conversation(messages, {}, "rows.jsonl:1")


def ask(question: str, answer: str, system: str = "") -> Conversation:
    return chat(*[("system", system)] * bool(system), ("user", question), ("assistant", answer))


def prints_of(*conversations: Conversation, near: bool = False) -> Fingerprints:
    return fingerprint(conversations, range(1, len(conversations) + 1), file=3, near=near)


def are_equal(values: Sequence[object]) -> bool:
    first, second = values
    return first == second


def compare(first: Conversation, second: Conversation) -> dict[str, bool]:
    prints = prints_of(first, second)
    return {name: are_equal(getattr(prints, name)) for name in ("row", "input", "question", "answer")}


def test_equal_rows_have_equal_fingerprints_whatever_their_place() -> None:
    first, second = ask("מה שלומך?", "טוב"), ask("מה שלומך?", "טוב")
    assert compare(first, second) == {"row": True, "input": True, "question": True, "answer": True}


def test_case_and_punctuation_make_another_row_with_the_same_input_and_answer() -> None:
    same = compare(ask("How are you?", "Fine"), ask("how are you", "fine "))
    assert same == {"row": False, "input": True, "question": True, "answer": True}


def test_a_sign_before_a_number_makes_another_answer() -> None:
    assert not compare(ask("2 - 3", "-1"), ask("2 - 3", "1"))["answer"]


def test_another_system_turn_makes_another_question_of_the_same_input() -> None:
    same = compare(ask("Hi", "Hello", "be kind"), ask("Hi", "Hello", "be rude"))
    assert same == {"row": False, "input": True, "question": False, "answer": True}


def test_the_input_is_every_turn_before_the_last_trained_one() -> None:
    talk = chat(("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four."))
    assert input_words(talk) == "one two three"


def test_turns_behind_the_answer_are_no_input() -> None:
    turns = (Message("user", "One", False), Message("assistant", "Two", True), Message("user", "Three", False))
    assert input_words(Conversation(turns, {}, "a:1")) == "one"


def test_a_document_is_its_own_input_and_contradicts_nothing() -> None:
    first, second = chat(("assistant", "First document.")), chat(("assistant", "Second document."))
    assert input_words(first) == "first document"
    assert compare(first, second) == {"row": False, "input": False, "question": False, "answer": True}


def test_pictures_and_calls_are_part_of_the_input() -> None:
    def look(url: str) -> Conversation:
        turns = (Message("user", "What is it?", False, images=(Image(0, url),)), Message("assistant", "A cat", True))
        return Conversation(turns, {}, "a:1")

    assert not compare(look("http://a/1.png"), look("http://a/2.png"))["input"]


def test_answers_that_only_call_differ_by_their_arguments() -> None:
    def call(arguments: str) -> Conversation:
        answer = Message("assistant", "", True, tool_calls=(ToolCall("1", "weather", arguments),))
        return Conversation((Message("user", "Weather?", False), answer), {}, "a:1")

    same = compare(call('{"city": "Haifa"}'), call('{"city": "Eilat"}'))
    assert same == {"row": False, "input": True, "question": True, "answer": False}


def test_ids_of_calls_do_not_count() -> None:
    def call(name: str) -> Conversation:
        answer = Message("assistant", "", True, tool_calls=(ToolCall(name, "weather", "{}"),))
        return Conversation((Message("user", "Weather?", False), answer), {}, "a:1")

    assert compare(call("call_1"), call("call_2"))["row"]


def prefer(preferred: str, rejected: str) -> Conversation:
    turns = (Message("user", "Tell me", False), Message("assistant", preferred, True))
    return Conversation(turns, {}, "a:1", rejected=Message("assistant", rejected, False))


def test_two_pairs_of_one_prompt_do_not_contradict_each_other_but_a_pair_turned_round_does() -> None:
    assert not compare(prefer("a", "b"), prefer("c", "d"))["question"]
    same = compare(prefer("a", "b"), prefer("b", "a"))
    assert (same["row"], same["question"], same["answer"]) == (False, True, False)


def test_verdicts_contradict_each_other_only_on_the_same_answer() -> None:
    def judge(answer: str, desirable: bool) -> Conversation:
        turns = (Message("user", "Tell me", False), Message("assistant", answer, True))
        return Conversation(turns, {}, "a:1", desirable=desirable)

    assert not compare(judge("a", True), judge("b", False))["question"]
    same = compare(judge("a", True), judge("a", False))
    assert (same["row"], same["question"], same["answer"]) == (False, True, False)


def test_the_reference_of_a_reinforcement_row_is_its_answer() -> None:
    def grade(reference: str) -> Conversation:
        return Conversation((Message("user", "2+2?", False),), {}, "a:1", extra={"reference": reference})

    same = compare(grade("4"), grade("5"))
    assert same == {"row": False, "input": True, "question": True, "answer": False}


def test_unused_columns_make_no_other_row() -> None:
    turns = ask("Hi", "Hello").messages
    assert compare(Conversation(turns, {}, "a:1", extra={"id": 1}), Conversation(turns, {}, "a:2", extra={"id": 2}))[
        "row"
    ]


def test_half_a_surrogate_pair_is_hashed_too() -> None:
    assert not compare(ask("\ud83d", "x"), ask("\ud83e", "x"))["input"]


def test_parts_are_joined_in_their_order() -> None:
    whole = prints_of(ask("a", "b"), ask("c", "d"), ask("e", "f"))
    joined = concatenate([prints_of(ask("a", "b")), prints_of(ask("c", "d"), ask("e", "f"))])
    assert np.array_equal(joined.row, whole.row)
    assert joined.line.tolist() == [1, 1, 2]
    assert joined.file.tolist() == [3, 3, 3]


def test_signatures_are_kept_only_where_every_part_has_them() -> None:
    signed, plain = prints_of(ask("a", "b"), near=True), prints_of(ask("a", "b"))
    assert concatenate([signed, plain]).signatures is None
    both = concatenate([signed, signed]).signatures
    assert both is not None
    assert len(both) == 2


def test_no_parts_are_no_rows() -> None:
    assert len(concatenate([])) == 0


def test_hashes_are_the_same_on_every_machine() -> None:
    assert int(prints_of(ask("How are you?", "Fine")).input[0]) == 14514353893925174331


def test_a_folder_may_hold_more_files_than_two_bytes_can_number() -> None:
    prints = fingerprint([], [], file=70_000, near=False)
    row = Conversation((Message("user", "שלום", trained=False), Message("assistant", "a", trained=True)), {}, "a:1")
    assert fingerprint([row], [1], file=70_000, near=False).file.tolist() == [70_000]
    assert prints.file.tolist() == []
