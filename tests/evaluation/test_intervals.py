import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from kivnun.errors import UserError
from kivnun.evaluation import intervals
from kivnun.evaluation.intervals import (
    macro_f1_estimate,
    mcnemar_exact,
    paired_difference,
    perplexity,
    perplexity_ratio,
    share,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("num_right", "num_rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_values_printed_by_newcombe_1998(num_right, num_rows, low, high):
    assert wilson_interval(num_right, num_rows) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy_and_encloses_the_share(counts):
    num_right, num_rows = counts
    estimate = share(num_right, num_rows)
    expected = binomtest(num_right, num_rows).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_share_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="0 of 0"):
        share(0, 0)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_the_two_sided_binomial_test(only_baseline, only_candidate):
    total = only_baseline + only_candidate
    expected = binomtest(only_baseline, total, 0.5).pvalue if total else 1.0
    assert mcnemar_exact(only_baseline, only_candidate) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand_and_on_many_rows():
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert mcnemar_exact(40_000, 60_000) == pytest.approx(0.0, abs=1e-300)


def test_perplexity_is_the_ratio_of_sums_and_not_the_mean_of_rows():
    estimate = perplexity([1.0, 30.0], [1, 10], seed=0, resamples=10)
    assert estimate.value == pytest.approx(math.exp(31 / 11))


def test_perplexity_of_equal_rows_has_no_spread():
    estimate = perplexity([math.log(7) * 3] * 20, [3] * 20, seed=1, resamples=50)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((7, 7, 7))


def test_the_perplexity_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        counts = generator.integers(1, 30, size=80)
        sums = counts * 2.0 + generator.normal(0, 1, size=80) * np.sqrt(counts)
        estimate = perplexity(sums.tolist(), counts.tolist(), seed=0, resamples=300)
        covered += estimate.low <= math.exp(2.0) <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_macro_f1_interval_is_that_of_drawing_rows_one_by_one():
    generator = np.random.default_rng(0)
    references = generator.choice(3, size=90, p=[0.6, 0.3, 0.1])
    answers = np.where(generator.random(90) < 0.7, references, generator.integers(0, 4, size=90))
    estimate = macro_f1_estimate(answers, references, 3, seed=0, resamples=4000)
    draws = [generator.integers(0, 90, size=90) for _ in range(400)]
    naive = [
        f1_score(references[d], answers[d], labels=[0, 1, 2], average="macro", zero_division=np.nan) for d in draws
    ]
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.03)


def test_the_paired_interval_has_the_textbook_width():
    num_rows, lost, won = 400, 20, 60
    estimate = paired_difference(lost, won, num_rows, seed=0, resamples=20_000)
    error = math.sqrt(lost + won - (won - lost) ** 2 / num_rows) / num_rows
    assert estimate.value == pytest.approx(0.1)
    assert (estimate.low, estimate.high) == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), abs=0.004)


def test_pairing_is_tighter_than_two_intervals_on_their_own():
    together = paired_difference(2, 12, 100, seed=0, resamples=2000)
    alone = share(60, 100), share(70, 100)
    assert together.low > 0
    assert alone[0].high > alone[1].low


def test_the_perplexity_ratio_is_the_quotient_of_the_two_perplexities():
    base, tuned, counts = [4.0, 9.0, 2.5], [3.0, 5.0, 2.0], [2, 4, 1]
    options = {"seed": 0, "resamples": 20}
    ratio = perplexity_ratio(base, tuned, counts, **options).value
    assert ratio == pytest.approx(
        perplexity(tuned, counts, **options).value / perplexity(base, counts, **options).value
    )


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    sums, counts = [1.0, 2.0, 3.5, 0.2], [1, 2, 2, 1]
    first = perplexity(sums, counts, seed=3, resamples=200)
    assert perplexity(sums, counts, seed=3, resamples=200) == first
    assert perplexity(sums, counts, seed=4, resamples=200) != first


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_interval(shuffler: random.Random):
    rows = [(0, 1, 3.0, 2), (1, 1, 2.5, 4), (2, 0, 9.0, 3), (0, 0, 1.0, 2), (1, 0, 4.25, 1), (1, 1, 2.5, 4)]
    mixed = shuffler.sample(rows, len(rows))
    assert _estimates(mixed) == _estimates(rows)


def test_bounding_the_memory_does_not_bias_the_interval(monkeypatch):
    sums, counts = list(np.linspace(1, 9, 50)), [3] * 50
    whole = perplexity(sums, counts, seed=0, resamples=4000)
    monkeypatch.setattr(intervals, "MAX_DRAWS_AT_ONCE", 500)
    parts = perplexity(sums, counts, seed=0, resamples=4000)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_with_a_count(bad):
    with pytest.raises(UserError, match="1 of 3") as caught:
        perplexity([1.0, bad, 2.0], [1, 1, 1], seed=0, resamples=10)
    assert caught.value.code == "loss-not-finite"


def _estimates(rows):
    answers, references, sums, counts = zip(*rows, strict=True)
    options = {"seed": 0, "resamples": 100}
    return (
        macro_f1_estimate(np.array(answers), np.array(references), 2, **options),
        perplexity(sums, counts, **options),
    )
