"""Which differences between two forms of a model are told apart, and which are excused."""

import pytest

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow, compare_answers, require_parity
from kivnun.generation.engine import Generation

REFERENCE = [
    Generation((5, 6, 7), "stop", (2.0, 1.0, 3.0, 4.0)),
    Generation((8, 9), "length", (2.0, 0.5)),
    Generation((), "stop", (1.0,)),
]


def changed(number: int, answer: Generation) -> list[Generation]:
    return [answer if place == number else reference for place, reference in enumerate(REFERENCE)]


def test_equal_answers_are_identical_whatever_their_margins():
    other = [Generation(answer.token_ids, answer.finished, None) for answer in REFERENCE]
    agreement = compare_answers(REFERENCE, other, tie_tolerance=1e-3)
    assert (agreement.num_prompts, agreement.identical, agreement.ties, agreement.different) == (3, 3, 0, 0)
    assert agreement.first_differences == ()
    assert agreement.identical_share == 1.0
    require_parity("fp32 ONNX", agreement)


def test_one_flipped_token_is_a_difference():
    other = changed(0, Generation((5, 99, 7), "stop", (2.0, 0.8, 3.0, 4.0)))
    agreement = compare_answers(REFERENCE, other, tie_tolerance=1e-3)
    assert (agreement.identical, agreement.ties, agreement.different) == (2, 0, 1)
    with pytest.raises(UserError) as caught:
        require_parity("fp32 ONNX", agreement)
    assert caught.value.code == "parity-failed"
    assert caught.value.problem == "fp32 ONNX answers 1 of 3 prompts differently from the tuned model"
    assert caught.value.details == ("prompt 0, step 1: token 6 became token 99 (margin 1)",)


@pytest.mark.parametrize(
    ("reference_margin", "other_margin", "ties"),
    [(0.0009, 0.0004, 1), (0.0, 0.0, 1), (0.0009, 0.5, 0), (0.5, 0.0009, 0), (2.0, 0.0, 0)],
)
def test_a_difference_is_a_tie_only_where_both_margins_are_small(reference_margin, other_margin, ties: int):
    reference = [Generation((5, 6), "stop", (2.0, reference_margin, 1.0))]
    other = [Generation((5, 7), "stop", (2.0, other_margin, 1.0))]
    agreement = compare_answers(reference, other, tie_tolerance=1e-3)
    assert (agreement.ties, agreement.different) == (ties, 1 - ties)


def test_a_margin_that_one_engine_does_not_know_makes_no_tie():
    known = [Generation((5, 6), "length", (2.0, 0.0))]
    unknown = [Generation((5, 7), "length", None)]
    assert compare_answers(known, unknown, tie_tolerance=1e9).different == 1
    assert compare_answers(unknown, known, tie_tolerance=1e9).different == 1


def test_a_small_margin_elsewhere_excuses_nothing():
    # Tiny margins before and after the step that differs, which itself is clear.
    reference = [Generation((5, 6, 7), "stop", (0.0, 1.0, 0.0, 0.0))]
    other = [Generation((5, 8, 7), "stop", (0.0, 1.0, 0.0, 0.0))]
    assert compare_answers(reference, other, tie_tolerance=1e-3).different == 1


def test_without_margins_no_difference_is_a_tie():
    reference = [Generation((5, 6), "length", None)]
    other = [Generation((5, 7), "length", None)]
    assert compare_answers(reference, other, tie_tolerance=1e9).different == 1


def test_stopping_where_the_reference_goes_on_is_a_difference():
    other = changed(0, Generation((5, 6), "stop", (2.0, 1.0, 0.7)))
    agreement = compare_answers(REFERENCE, other, tie_tolerance=1e-3)
    assert agreement.different == 1
    assert str(agreement.first_differences[0]) == "prompt 0, step 2: token 7 became end (margin 3)"


def test_stopping_at_a_tie_is_a_tie():
    reference = [Generation((5, 6), "stop", (2.0, 1.0, 0.0005))]
    other = [Generation((5, 6, 7), "length", (2.0, 1.0, 0.0007))]
    assert compare_answers(reference, other, tie_tolerance=1e-3).ties == 1


def test_an_answer_cut_earlier_is_a_difference_that_no_margin_excuses():
    other = changed(1, Generation((8,), "length", (0.0,)))
    agreement = compare_answers(REFERENCE, other, tie_tolerance=1e9)
    assert (agreement.ties, agreement.different) == (0, 1)
    assert agreement.first_differences[0].reference_token == 9


def test_differences_are_shown_before_ties_and_only_a_few():
    reference = [Generation((1,), "length", (0.0,))] * 40
    other = [Generation((2,), "length", (0.0 if number < 20 else 1.0,)) for number in range(40)]
    agreement = compare_answers(reference, other, tie_tolerance=1e-3)
    assert (agreement.ties, agreement.different) == (20, 20)
    assert [difference.prompt for difference in agreement.first_differences] == list(range(20, 30))


@pytest.mark.parametrize("other", [[], REFERENCE[:2]])
def test_answers_to_other_prompts_cannot_be_compared(other: list[Generation]):
    with pytest.raises(ValueError, match="cannot compare"):
        compare_answers(REFERENCE, other, tie_tolerance=1e-3)


def test_a_row_of_the_parity_table_is_a_value():
    row = ParityRow("int4 ONNX", "int4", 7_000_000, 900.0, 400, 380, 2, 18, 0.91)
    assert row.identical + row.ties + row.different == row.num_prompts
