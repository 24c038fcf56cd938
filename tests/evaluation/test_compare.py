import json

from hypothesis import given
from hypothesis import strategies as st

from kivnun.evaluation.compare import Outcome, compare_rows, group_outcomes
from kivnun.evaluation.paired import compare_scores
from kivnun.evaluation.wording import say_verdict

OUTCOMES = [
    Outcome("a", "train.jsonl:10", "p1", "joy", "joy", "fear"),
    Outcome("b", "train.jsonl:9", "p2", "joy", "joy\nand more", "sadness"),
    Outcome("c", "train.jsonl:1", "p3", "joy", "fear", "joy"),
    Outcome("d", "other.jsonl:2", "p4", "joy", "fear", "fear"),
    Outcome("e", "other.jsonl:2", "p5", "joy", "joy", "joy"),
]


def compare(lost, won, same):
    baseline = [True] * lost + [False] * won + [True] * same
    candidate = [False] * lost + [True] * won + [True] * same
    return compare_rows(("base", "tuned"), baseline, candidate, seed=0, resamples=2000)


@given(st.permutations(OUTCOMES))
def test_rows_are_grouped_and_ranked_alike_in_whatever_order_they_come(outcomes):
    groups = group_outcomes(outcomes, task="classification")
    assert [row.row_id for row in groups.regressions] == ["b", "a"]  # line 9 before line 10
    assert [row.row_id for row in groups.fixes] == ["c"]
    assert [row.row_id for row in groups.both_wrong] == ["d"]
    assert [row.row_id for row in groups.both_right] == ["e"]


def test_generation_compares_the_whole_answer():
    groups = group_outcomes(OUTCOMES, task="generation")
    assert [row.row_id for row in groups.regressions] == ["a"]
    assert [row.row_id for row in groups.both_wrong] == ["d", "b"]


def test_the_dump_is_json_and_starts_with_the_regressions():
    dumped = json.loads(json.dumps(group_outcomes(OUTCOMES, task="classification").to_json()))
    assert list(dumped) == ["regressions", "fixes", "both_wrong", "both_right"]
    assert dumped["fixes"][0]["where"] == "train.jsonl:1"


def test_the_four_counts_of_a_comparison_are_the_rows():
    pair = compare_rows(
        ("base", "tuned"), [True, True, False, False, False], [True, False, True, True, False], seed=0, resamples=100
    )
    assert (pair.both_right, pair.only_baseline, pair.only_candidate, pair.both_wrong) == (1, 1, 2, 1)
    assert (pair.baseline_share, pair.candidate_share) == (0.4, 0.6)
    assert pair.to_json()["num_rows"] == 5


def test_a_large_gain_is_better_a_large_loss_worse_and_a_small_one_is_not_called():
    assert compare(2, 40, 60).verdict == "better"
    assert compare(40, 2, 60).verdict == "worse"
    assert compare(1, 4, 60).verdict == "unclear"
    assert compare(0, 0, 10).verdict == "unclear"


def test_an_interval_above_zero_is_not_enough_when_the_exact_test_disagrees():
    pair = compare(3, 11, 86)
    assert pair.difference.low > 0
    assert pair.p_value > 0.05
    assert pair.verdict == "unclear"


def test_few_rows_that_differ_are_no_certainty_and_say_the_same_as_a_comparison_of_scores():
    none = compare(0, 0, 10).difference
    assert none.low == -none.high < -0.2
    before, after = [0.0] * 5 + [1.0] * 20, [1.0] * 25
    found = compare_scores(("base", "tuned"), before, after, seed=0, resamples=2000)
    assert compare(0, 5, 20).difference == found.difference


def test_the_verdict_sentence_names_both_shares_the_difference_and_the_doubt():
    sentence = say_verdict(compare(2, 40, 58), metric="accuracy").replace("\u00a0", " ")
    assert sentence.startswith("The tuned model is better than the base model: accuracy 98.0 % against 60.0 %")
    assert "on 100 rows" in sentence
    assert "+38.0 points (95 % interval +2" in sentence
    assert "p < 0.001" in sentence


def test_the_sentence_of_a_loss_says_worse_with_a_minus():
    sentence = say_verdict(compare(40, 2, 58), metric="exact_match")
    assert "worse" in sentence
    assert "\u221238.0" in sentence
