"""How far people, or people and a model, agree beyond chance, with intervals.

A kappa of Cohen's for two raters of the same rows; Krippendorff's alpha for any number of raters, missing ratings, and
nominal, ordinal or interval values. Both are None where chance alone explains everything, since every rating is the
same: then there is no agreement beyond chance to speak of.

References: Cohen 1960, "A coefficient of agreement for nominal scales"; Krippendorff 2011, "Computing Krippendorff's
Alpha-Reliability", with the coincidence matrices of its section C and the differences of its section D.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kivnun.evaluation.intervals import BOOTSTRAP, CONFIDENCE, share, wilson_interval
from kivnun.evaluation.results import Estimate

Level = Literal["nominal", "ordinal", "interval"]
Floats = NDArray[np.float64]
Unit = Sequence[float | None]
"""Values that the raters gave to one row, by rater; None where a rater gave none."""

PERFECT = "bootstrap over rows, its lower end from Wilson's interval of the agreement, which is perfect"


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance: (observed - expected) / (1 - expected), Cohen 1960, eq. 1.

    Args:
        first: The first rater's labels, row by row.
        second: The second rater's labels of the same rows.

    Raises:
        ValueError: The two are not of the same length.
    """
    counts = _contingency(first, second)
    value = float(_kappas(counts[np.newaxis])[0]) if counts.size else np.nan
    return None if np.isnan(value) else value


def kappa_estimate(
    first: Sequence[Hashable], second: Sequence[Hashable], *, seed: int = 0, resamples: int = 1000
) -> Estimate | None:
    """Cohen's kappa with a bootstrap interval over the rows.

    Args:
        first: The first rater's labels, row by row.
        second: The second rater's labels of the same rows.
        seed: Of the bootstrap.
        resamples: How many.

    Raises:
        ValueError: The two are not of the same length.
    """
    value = cohen_kappa(first, second)
    if value is None:
        return None
    counts = _contingency(first, second)
    num_rows = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(num_rows, counts.ravel() / num_rows, size=resamples)
    samples = _kappas(draws.reshape(resamples, *counts.shape).astype(np.float64))
    if np.trace(counts) < num_rows:
        return _interval(value, samples)
    expected = float((counts.sum(axis=1) * counts.sum(axis=0)).sum()) / num_rows**2
    low = 1 - (1 - wilson_interval(num_rows, num_rows)[0]) / (1 - expected)
    return Estimate(1.0, max(-1.0, low), 1.0, PERFECT)


def percent_agreement(units: Sequence[Unit]) -> float | None:
    """The share of equal pairs among all pairs of ratings of the same row; None where no row has two.

    Args:
        units: The rows.
    """
    pairs = [pair for unit in units for pair in combinations([value for value in unit if value is not None], 2)]
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


def agreement_share(first: Sequence[Hashable], second: Sequence[Hashable]) -> Estimate | None:
    """The share of rows to which two raters gave the same label, with Wilson's interval.

    Args:
        first: The first rater's labels, row by row.
        second: The second rater's labels of the same rows.

    Raises:
        ValueError: The two are not of the same length.
    """
    equal = [one == other for one, other in zip(first, second, strict=True)]
    return share(sum(equal), len(equal)) if equal else None


def krippendorff_alpha(units: Sequence[Unit], level: Level) -> float | None:
    """Agreement of any number of raters: 1 - observed / expected disagreement, Krippendorff 2011, section D.

    Args:
        units: The rows; those with fewer than two ratings say nothing about agreement and are left out.
        level: What differences between values mean.
    """
    values, coincidences = _coincidences(units)
    if not len(coincidences):
        return None
    alpha = float(_alphas(coincidences.sum(axis=0)[np.newaxis], values, level)[0])
    return None if np.isnan(alpha) else alpha


def alpha_estimate(units: Sequence[Unit], level: Level, *, seed: int = 0, resamples: int = 1000) -> Estimate | None:
    """Krippendorff's alpha with a bootstrap interval over the rows.

    Args:
        units: The rows; those with fewer than two ratings are left out.
        level: What differences between values mean.
        seed: Of the bootstrap.
        resamples: How many.
    """
    value = krippendorff_alpha(units, level)
    if value is None:
        return None
    values, coincidences = _coincidences(units)
    num_units = len(coincidences)
    draws = np.random.default_rng(seed).multinomial(num_units, [1 / num_units] * num_units, size=resamples)
    samples = _alphas(np.tensordot(draws.astype(np.float64), coincidences, axes=1), values, level)
    if value < 1:
        return _interval(value, samples)
    return Estimate(1.0, _low_of_perfect(coincidences, values, level), 1.0, PERFECT)


def _low_of_perfect(coincidences: Floats, values: Floats, level: Level) -> float:
    """A lower end where no row shows a disagreement: as if the rest of Wilson's interval differed by all the scale."""
    total = coincidences.sum(axis=0)
    counts = total.sum(axis=0)
    differences = _differences(counts[np.newaxis], values, level)[0]
    num_values = counts.sum()
    expected = float((np.outer(counts, counts) * differences).sum()) / (num_values * (num_values - 1))
    unseen = 1 - wilson_interval(len(coincidences), len(coincidences))[0]
    return max(-1.0, 1 - unseen * float(differences.max()) / expected)


def _contingency(first: Sequence[Hashable], second: Sequence[Hashable]) -> Floats:
    pairs = list(zip(first, second, strict=True))
    codes: dict[Hashable, int] = {}
    for label in (label for pair in pairs for label in pair):
        codes.setdefault(label, len(codes))
    counts = np.zeros((len(codes), len(codes)))
    for one, other in pairs:
        counts[codes[one], codes[other]] += 1
    return counts


def _kappas(counts: Floats) -> Floats:
    """One kappa for each table of counts; NaN where chance explains all."""
    total = counts.sum(axis=(1, 2))
    observed = np.trace(counts, axis1=1, axis2=2) / total
    expected = (counts.sum(axis=2) * counts.sum(axis=1)).sum(axis=1) / total**2
    return np.divide(observed - expected, 1 - expected, out=np.full(len(counts), np.nan), where=expected < 1)


def _coincidences(units: Sequence[Unit]) -> tuple[Floats, Floats]:
    """The values in order, and what each row with two ratings or more adds to the matrix of coincidences."""
    rated = [[value for value in unit if value is not None] for unit in units]
    rated = [values for values in rated if len(values) > 1]
    values = sorted({value for row in rated for value in row})
    place = {value: number for number, value in enumerate(values)}
    counts = np.zeros((len(rated), len(values)))
    for number, row in enumerate(rated):
        for value in row:
            counts[number, place[value]] += 1
    own = np.einsum("uc,ck->uck", counts, np.eye(len(values)))
    pairs = np.einsum("uc,uk->uck", counts, counts) - own
    sizes = counts.sum(axis=1) - 1
    return np.asarray(values, dtype=np.float64), pairs / sizes[:, np.newaxis, np.newaxis]


def _alphas(coincidences: Floats, values: Floats, level: Level) -> Floats:
    """One alpha for each matrix of coincidences; NaN where all values are the same."""
    counts = coincidences.sum(axis=1)
    differences = _differences(counts, values, level)
    total = counts.sum(axis=1)
    observed = (coincidences * differences).sum(axis=(1, 2)) * (total - 1)
    expected = (counts[:, :, np.newaxis] * counts[:, np.newaxis, :] * differences).sum(axis=(1, 2))
    return 1 - np.divide(observed, expected, out=np.full(len(counts), np.nan), where=expected > 0)


def _differences(counts: Floats, values: Floats, level: Level) -> Floats:
    """The squared difference of every two values; ordinal ones differ by the ratings that lie between them."""
    if level == "nominal":
        return np.broadcast_to(1 - np.eye(len(values)), (len(counts), len(values), len(values)))
    places = np.broadcast_to(values, counts.shape) if level == "interval" else counts.cumsum(axis=1) - counts / 2
    return (places[:, :, np.newaxis] - places[:, np.newaxis, :]) ** 2


def _interval(value: float, samples: Floats) -> Estimate:
    """The middle of the resamples; those in which every rating is the same have no agreement, and are left out."""
    tail = (1 - CONFIDENCE) / 2
    defined = samples[~np.isnan(samples)]
    low, high = np.quantile(defined, [tail, 1 - tail])
    left_out = len(samples) - len(defined)
    method = BOOTSTRAP if not left_out else f"{BOOTSTRAP}, {left_out:,} of {len(samples):,} resamples without variation"
    return Estimate(value, float(low), float(high), method)
