"""The one way in which tokens are drawn."""

import numpy as np
import pytest

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling, choose_token, start_draws, token_probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], dtype=np.float32))


def draw(sampling: Sampling, count: int) -> np.ndarray:
    draws = start_draws(sampling)
    return np.array([choose_token(LOGITS, sampling, draws) for _ in range(count)])


def test_temperature_zero_takes_the_best_token():
    assert set(draw(Sampling(), 20)) == {1}


def test_draws_follow_the_softmax():
    counts = np.bincount(draw(Sampling(temperature=1.0, seed=0), 20_000), minlength=5)
    np.testing.assert_allclose(counts / 20_000, [0.1, 0.4, 0.05, 0.25, 0.2], atol=0.015)


def test_temperature_divides_the_logits():
    # p ** (1 / T), normalised: with T = 1/2 the probabilities are squared.
    squared = np.array([0.01, 0.16, 0.0025, 0.0625, 0.04])
    np.testing.assert_allclose(
        token_probabilities(LOGITS, Sampling(temperature=0.5)), squared / squared.sum(), rtol=1e-5
    )


def test_top_k_keeps_the_k_best_tokens():
    kept = token_probabilities(LOGITS, Sampling(temperature=1.0, top_k=2))
    np.testing.assert_allclose(kept, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, {1}), (0.41, {1, 3}), (0.64, {1, 3}), (0.7, {1, 3, 4}), (1.0, set(range(5)))]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: set[int]):
    assert set(np.flatnonzero(token_probabilities(LOGITS, Sampling(temperature=1.0, top_p=top_p)))) == kept


def test_only_kept_tokens_are_ever_drawn():
    assert set(draw(Sampling(temperature=2.0, top_k=3, seed=1), 2_000)) == {1, 3, 4}


def test_the_same_seed_draws_the_same_tokens():
    first, again = (draw(Sampling(temperature=1.0, seed=5), 50) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (draw(Sampling(temperature=1.0, seed=6), 50) != first).any()


def test_rounding_in_the_logits_does_not_change_the_draws():
    tied = np.zeros(300, dtype=np.float32)
    nudged = tied + np.random.default_rng(0).normal(scale=1e-6, size=300).astype(np.float32)
    full = Sampling(temperature=1.0, seed=3)
    draws, draws_nudged = start_draws(full), start_draws(full)
    pairs = [(choose_token(tied, full, draws), choose_token(nudged, full, draws_nudged)) for _ in range(200)]
    assert all(first == second for first, second in pairs)


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"seed": -1}],
)
def test_values_out_of_range_are_refused(values: dict[str, float]):
    with pytest.raises(UserError, match="must be") as caught:
        Sampling(**values)
    assert caught.value.code == "sampling-invalid"
