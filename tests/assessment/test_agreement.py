"""Kappa and alpha against published tables and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from kivnun.assessment.agreement import (
    agreement_share,
    alpha_estimate,
    cohen_kappa,
    kappa_estimate,
    krippendorff_alpha,
    percent_agreement,
)
from kivnun.evaluation.intervals import wilson_interval

# Krippendorff 2011, sections C and D: four observers, twelve units, missing ratings, of which unit 12 has only one.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
UNITS = list(zip(*OBSERVERS, strict=True))


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_the_published_table(level, published) -> None:
    alpha = krippendorff_alpha(UNITS, level)
    assert alpha is not None
    assert round(alpha, 3) == published


def test_alpha_of_two_observers_with_two_values_is_the_published_one() -> None:
    # Krippendorff 2011, section A: ten articles, two observers, alpha = .095.
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    alpha = krippendorff_alpha(list(zip(meg, owen, strict=True)), "nominal")
    assert alpha is not None
    assert round(alpha, 3) == 0.095


def test_alpha_of_two_observers_with_five_values_is_the_published_one() -> None:
    # Krippendorff 2011, section B: twelve articles, categories a to e, alpha = .692.
    ben, gerry = "aabbdcccedda", "babbbccceddd"
    codes = {name: number for number, name in enumerate("abcde")}
    alpha = krippendorff_alpha([(codes[x], codes[y]) for x, y in zip(ben, gerry, strict=True)], "nominal")
    assert alpha is not None
    assert round(alpha, 3) == 0.692


def test_kappa_is_that_of_cohens_own_table() -> None:
    # Cohen 1960, table 1: 200 patients by two judges; observed .70 and expected .41, so .492.
    table = ((88, 14, 18), (10, 40, 10), (2, 6, 12))
    rows = [(x, y) for x, counts in enumerate(table) for y, count in enumerate(counts) for _ in range(count)]
    kappa = cohen_kappa([x for x, _ in rows], [y for _, y in rows])
    assert kappa == pytest.approx((0.70 - 0.41) / (1 - 0.41), abs=1e-12)


LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=40)


@given(LABELS)
def test_kappa_is_that_of_scikit_learn_to_the_last_digit(rows) -> None:
    first, second = [x for x, _ in rows], [y for _, y in rows]
    kappa = cohen_kappa(first, second)
    if len({*first, *second}) == 1:
        assert kappa is None
    else:
        assert kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-15, rel=1e-14)


@given(LABELS)
def test_alpha_of_two_raters_nears_scotts_pi(rows) -> None:
    """With two raters and no gaps, alpha = 1 - (1 - 1/(2n)) (1 - pi), Krippendorff's own relation to Scott 1955."""
    codes = [(ord(x), ord(y)) for x, y in rows]
    num = len(codes)
    observed = sum(x == y for x, y in codes) / num
    shares = [sum((x == c) + (y == c) for x, y in codes) / (2 * num) for c in map(ord, "abc")]
    expected = sum(each**2 for each in shares)
    alpha = krippendorff_alpha(codes, "nominal")
    if max(shares) == 1:
        assert alpha is None
    else:
        pi = (observed - expected) / (1 - expected)
        assert alpha == pytest.approx(1 - (1 - 1 / (2 * num)) * (1 - pi), abs=1e-12)


@given(LABELS, st.randoms())
def test_no_agreement_depends_on_the_order_of_rows_or_raters(rows, random) -> None:
    codes: list[tuple[float | None, ...]] = [(ord(x), ord(y), None) for x, y in rows]
    mixed = [tuple(random.sample(unit, 3)) for unit in random.sample(codes, len(codes))]
    assert krippendorff_alpha(mixed, "ordinal") == pytest.approx(krippendorff_alpha(codes, "ordinal"), abs=1e-12)


def test_two_values_are_as_far_apart_on_every_level() -> None:
    units = [(1, 1), (2, 2), (1, 2), (2, 2), (1, 1)]
    nominal = krippendorff_alpha(units, "nominal")
    assert krippendorff_alpha(units, "interval") == pytest.approx(nominal)
    assert krippendorff_alpha(units, "ordinal") == pytest.approx(nominal)


def test_percent_agreement_counts_pairs_of_ratings_of_one_row() -> None:
    assert percent_agreement([(1, 1, 2), (3, None, None), (2, None, 2)]) == 2 / 4
    assert percent_agreement([(1, None)]) is None


def test_no_variation_is_no_agreement_beyond_chance() -> None:
    assert cohen_kappa("aaaa", "aaaa") is None
    assert kappa_estimate("aaaa", "aaaa") is None
    assert krippendorff_alpha([(1, 1), (1, 1)], "interval") is None
    assert alpha_estimate([(1, None), (2, None)], "nominal") is None
    assert cohen_kappa("", "") is None


def test_raters_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        cohen_kappa("ab", "a")


def test_perfect_agreement_on_few_rows_is_not_certain() -> None:
    few, many = "ab" * 3, "ab" * 100
    low = wilson_interval(6, 6)[0]
    kappa = kappa_estimate(few, few)
    assert kappa is not None
    # With two labels of equal share, chance agrees on half of the rows.
    assert (kappa.value, kappa.high) == (1, 1)
    assert kappa.low == pytest.approx((low - 0.5) / 0.5)
    more = kappa_estimate(many, many)
    assert more is not None
    assert more.low > 0.95
    alpha = alpha_estimate([(x, x) for x in (1, 2) * 3], "nominal")
    assert alpha is not None
    assert 0 < alpha.low < kappa.low + 0.1 < 1


def test_a_share_has_wilsons_interval() -> None:
    estimate = agreement_share("abca", "abcb")
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == (0.75, *wilson_interval(3, 4))


@pytest.mark.parametrize("kind", ["kappa", "alpha"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(kind) -> None:
    """Two raters who agree with probability .7 beyond chance, so that kappa and alpha are .7 in the long run."""
    random = np.random.default_rng(5)
    covered, runs = 0, 200
    for seed in range(runs):
        first = random.integers(0, 3, size=120)
        second = np.where(random.random(120) < 0.7, first, random.integers(0, 3, size=120))
        if kind == "kappa":
            found = kappa_estimate(first.tolist(), second.tolist(), seed=seed, resamples=300)
        else:
            found = alpha_estimate(
                list(zip(first.tolist(), second.tolist(), strict=True)), "nominal", seed=seed, resamples=300
            )
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / runs <= 0.99
