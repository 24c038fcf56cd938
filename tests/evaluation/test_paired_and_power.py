"""Two systems on the same rows: exact tests, intervals that cover, corrections for many, and how many rows it takes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, wilcoxon

from kivnun.evaluation.compare import compare_by, compare_rows
from kivnun.evaluation.intervals import bits_per_byte, mean_estimate, share, student_quantile, wilson_interval
from kivnun.evaluation.paired import compare_scores, estimate_difference, holm, sign_flip_test
from kivnun.evaluation.power import detectable, rows_needed, rows_needed_at, say_power

OPTIONS = {"seed": 0, "resamples": 1000}


@settings(max_examples=30)
@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.125, 0.5, 1.0]), min_size=1, max_size=9))
def test_flipping_signs_is_exact_on_few_rows(differences):
    observed = abs(sum(differences))
    all_sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_test(differences, seed=0) == pytest.approx(np.mean([each >= observed for each in all_sums]))


def test_flipping_signs_is_that_of_scipy_on_many_rows():
    generator = np.random.default_rng(2)
    differences = generator.normal(0.05, 0.2, size=60)
    expected = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    assert sign_flip_test(differences.tolist(), seed=0) == pytest.approx(expected, abs=0.01)
    assert sign_flip_test(differences.tolist(), seed=0) == pytest.approx(wilcoxon(differences).pvalue, abs=0.1)


def test_scores_of_0_and_1_are_compared_as_right_and_wrong():
    before, after = [1, 1, 0, 0, 0] * 12, [1, 0, 1, 1, 0] * 12
    found = compare_scores(("a", "b"), before, after, **OPTIONS)
    rows = compare_rows(("a", "b"), [each == 1 for each in before], [each == 1 for each in after], **OPTIONS)
    assert (found.test, found.p_value, found.difference) == ("mcnemar", rows.p_value, rows.difference)
    assert (found.wins, found.losses, found.ties) == (24, 12, 24)
    assert (found.baseline_mean, found.candidate_mean) == pytest.approx((0.4, 0.6))
    assert compare_by("accuracy", ("a", "b"), before, after, **OPTIONS).means is None


def test_graded_scores_are_compared_by_their_means_and_counted_as_wins_and_losses():
    before, after = [0.2, 0.5, 1.0, 0.4] * 5, [0.6, 0.4, 1.0, 0.8] * 5
    found = compare_by("token_f1", ("a", "b"), before, after, **OPTIONS)
    assert (found.both_right, found.only_baseline, found.only_candidate, found.both_wrong) == (5, 5, 10, 0)
    assert (found.metric, found.test) == ("token_f1", "permutation")
    assert found.means == pytest.approx((0.525, 0.7))
    assert found.difference.value == pytest.approx(0.175)
    assert found.verdict == "better"


def test_the_same_answers_are_a_tie_that_still_has_a_width():
    found = compare_scores(("a", "b"), [0.5, 1, 0] * 10, [0.5, 1, 0] * 10, **OPTIONS)
    assert (found.p_value, found.verdict, found.ties) == (1, "unclear", 30)
    assert found.difference.low < -0.05 < 0.05 < found.difference.high


def test_the_order_of_the_rows_changes_nothing():
    before, after = [0.1, 0.5, 1, 0.3, 0.9] * 5, [0.3, 0.4, 1, 0.5, 0.6] * 5
    pairs = sorted(zip(before, after, strict=True))
    assert compare_scores(("a", "b"), *zip(*pairs, strict=True), **OPTIONS) == compare_scores(
        ("a", "b"), before, after, **OPTIONS
    )


def test_scores_of_different_rows_are_refused():
    with pytest.raises(ValueError, match="not of the same rows"):
        compare_scores(("a", "b"), [1], [1, 0], **OPTIONS)


def test_holm_is_the_correction_of_1979():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.5]) == [1, 1]
    assert holm([0.2, 0.001]) == pytest.approx([0.2, 0.002])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("discordant", "effect", "rows"),
    [
        (0.2, 0.03, 1740), (0.2, 0.05, 625), (0.2, 0.10, 155), (0.2, 0.15, 68),
        (0.3, 0.03, 2611), (0.3, 0.05, 939), (0.3, 0.10, 233), (0.3, 0.15, 103),
    ],
)  # fmt: skip
def test_the_rows_needed_are_those_of_the_table(discordant, effect, rows):
    assert rows_needed_at(discordant, effect) == rows
    wins = round(100 * discordant)
    differences = [1] * (wins // 2) + [-1] * (wins - wins // 2) + [0] * (100 - wins)
    assert rows_needed(differences, effect) == rows
    assert detectable(differences, rows) <= effect < detectable(differences, rows - 1)


def test_that_many_rows_show_the_effect_four_times_in_five():
    generator = np.random.default_rng(4)
    draws = generator.choice([1, -1, 0], p=[0.15, 0.05, 0.8], size=(400, 155))
    shown = [
        compare_scores(("a", "b"), (row < 0) * 1.0, (row > 0) * 1.0, seed=0, resamples=200).p_value < 0.05
        for row in draws
    ]
    assert 0.72 <= np.mean(shown) <= 0.86  # the exact test is a little more careful than the formula


def test_systems_that_hardly_differ_need_no_fewer_rows_than_the_effect_itself():
    assert rows_needed([0] * 100, 0.05) == rows_needed_at(0.05, 0.05) > 100


def test_power_is_said_in_words():
    assert say_power(155, [1] * 10 + [-1] * 10 + [0] * 80, effect=0.1).startswith(
        "155 rows can show a difference of 10.0"
    )
    assert "5 points need about 625" in say_power(200)
    assert "too few to show any difference" in say_power(3)
    assert "from the differences measured" in say_power(9, [0.5, 0])


@pytest.mark.parametrize("degrees", [3, 9, 49, 199])
def test_student_s_t_is_that_of_scipy(degrees):
    from scipy.stats import t

    assert student_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=2e-3 if degrees < 9 else 1e-5)


def test_a_mean_of_0_and_1_has_wilson_s_interval_and_equal_scores_have_a_width():
    assert mean_estimate([1, 0, 1, 1], **OPTIONS) == share(3, 4)
    equal = mean_estimate([0.5] * 40, **OPTIONS)
    assert (equal.low, equal.high) == pytest.approx(wilson_interval(20, 40))
    assert mean_estimate([0.5], **OPTIONS).low < 0.2


def test_bits_per_byte_are_those_of_all_texts_together():
    estimate = bits_per_byte([np.log(2) * 8, np.log(2) * 2], [4, 1], **OPTIONS)
    assert estimate.value == pytest.approx(2)


def skewed(generator, shape):
    """Scores like those of a token F1: half are 0, a quarter is 1; their mean is .35."""
    kind, part = generator.random(shape), generator.random(shape)
    return np.where(kind < 0.55, 0.0, np.where(kind < 0.8, 1.0, part))


@pytest.mark.parametrize("num_rows", [50, 150])
def test_intervals_of_skewed_scores_and_of_paired_differences_cover_as_often_as_they_say(num_rows):
    generator = np.random.default_rng(7)
    options = {"seed": 0, "resamples": 300}
    means = [mean_estimate(row.tolist(), **options) for row in skewed(generator, (400, num_rows))]
    assert 0.925 <= np.mean([each.low <= 0.35 <= each.high for each in means]) <= 0.98
    # A quarter of the rows differs; the true difference is .045.
    kind, part = generator.random((400, num_rows)), generator.random((400, num_rows))
    gains = np.where(kind < 0.75, 0.0, np.where(kind < 0.92, part, -part))
    pairs = [estimate_difference(row, is_binary=False, **options) for row in gains]
    assert 0.925 <= np.mean([each.low <= 0.045 <= each.high for each in pairs]) <= 0.98
