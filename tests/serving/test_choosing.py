"""What is chosen for many rows at once is what `choose_token` chooses, and each row's own trouble stays its own."""

import numpy as np
import pytest
from heard import ask_for

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling, choose_token, start_draws
from kivnun.serving.choosing import Chooser, best_ids, choose_tokens, draw_token, told_token

DRAWS = np.random.default_rng(0)


class OnlyThese:
    """A constraint over a tokenizer of some size."""

    def __init__(self, allowed: set[int], size: int) -> None:
        self.mask = np.isin(np.arange(size), list(allowed))
        self.taken: list[int] = []

    def allowed(self):
        return self.mask

    def take(self, token_id: int) -> None:
        self.taken.append(token_id)


def logits_of(size: int, spread: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


@pytest.mark.parametrize("top_k", [0, 1, 7, 50, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
def test_draws_fall_on_the_tokens_that_choose_token_draws(top_k: int, top_p: float):
    for seed in range(60):
        logits_V = logits_of(int(DRAWS.integers(2, 4000)), float(DRAWS.choice([0.05, 1.0, 6.0])), seed)
        if seed % 3 == 0:
            # Many ties, of which a stable sort takes the first.
            logits_V = np.round(logits_V)
        sampling = Sampling(float(DRAWS.choice([0.3, 1.0, 2.5])), top_p, top_k)
        ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
        assert draw_token(logits_V, sampling, ours) == choose_token(logits_V, sampling, theirs)
        assert ours.random() == theirs.random()


def test_one_chooser_draws_a_whole_answer_as_choose_token_does():
    sampling = Sampling(0.9, 0.8, seed=11)
    chooser, draws = Chooser(ask_for([1], sampling=sampling)), start_draws(sampling)
    for seed in range(40):
        logits_V = logits_of(49_152, seed=seed)
        [chosen] = choose_tokens(logits_V[None], [chooser])
        assert chosen == choose_token(logits_V, sampling, draws)


def test_the_best_ids_are_those_of_a_stable_sort():
    for seed in range(100):
        values = np.round(logits_of(int(DRAWS.integers(1, 3000)), 2.0, seed) * (1 + seed % 4))
        count = int(DRAWS.integers(1, len(values) + 3))
        wanted = np.sort(np.argsort(-values, kind="stable")[:count])
        np.testing.assert_array_equal(best_ids(values, count), wanted)


def test_rows_whose_logits_are_not_finite_are_told_and_no_others():
    logits_BV = np.stack([logits_of(300, seed=seed) for seed in range(5)])
    logits_BV[0, 7], logits_BV[2, 299], logits_BV[3, 0] = np.nan, np.inf, -np.inf
    choosers = [Chooser(ask_for([1], sampling=Sampling(float(row % 2)))) for row in range(5)]
    chosen = choose_tokens(logits_BV, choosers)
    assert [each is None for each in chosen] == [True, False, True, True, False]
    assert chosen[4] == int(logits_BV[4].argmax())


def test_penalties_are_taken_off_for_each_time_and_once():
    logits_V = np.array([5.0, 4.9, 4.0, 1.0], dtype=np.float32)
    chooser = Chooser(ask_for([1], frequency_penalty=0.5, presence_penalty=0.25))
    chosen = []
    for _ in range(7):
        [token] = choose_tokens(logits_V[None], [chooser])
        chooser.take(token)
        chosen.append(token)
    wanted, counts = [], np.zeros(4)
    for _ in range(7):
        wanted.append(int((logits_V - 0.5 * counts - 0.25 * (counts > 0)).argmax()))
        counts[wanted[-1]] += 1
    assert chosen == wanted
    assert len(set(chosen)) == 3


def test_a_bias_moves_logits_and_an_unknown_token_is_refused_for_that_row_alone():
    logits_BV = np.stack([logits_of(100)] * 3)
    biases = ({3: 100.0}, {100: 1.0}, {int(logits_BV[0].argmax()): -100.0})
    chosen = choose_tokens(logits_BV, [Chooser(ask_for([1], logit_bias=bias)) for bias in biases])
    assert chosen[0] == 3
    assert isinstance(chosen[1], UserError)
    assert chosen[1].code == "sampling-invalid"
    assert chosen[2] == int(np.argsort(-logits_BV[0])[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_allows_only_its_tokens_and_none_beyond_the_tokenizer(temperature: float):
    logits_V = logits_of(64)
    logits_V[60] = 50.0
    constraint = OnlyThese({5, 9, 11}, size=60)
    chooser = Chooser(ask_for([1], constraint=constraint, sampling=Sampling(temperature, seed=1)))
    chosen = [choose_tokens(logits_V[None], [chooser])[0] for _ in range(30)]
    assert set(chosen) <= {5, 9, 11}
    if temperature == 0:
        assert set(chosen) == {max((5, 9, 11), key=lambda token: logits_V[token])}
    chooser.take(9)
    assert constraint.taken == [9]


def test_a_constraint_that_allows_nothing_ends_its_row():
    choosers = [Chooser(ask_for([1], constraint=OnlyThese(set(), 30))), Chooser(ask_for([1]))]
    first, second = choose_tokens(np.stack([logits_of(30)] * 2), choosers)
    assert isinstance(first, UserError)
    assert first.code == "constraint-failed"
    assert second == int(logits_of(30).argmax())


def test_log_probabilities_are_the_models_own():
    logits_V = logits_of(5000)
    wanted = logits_V.astype(np.float64) - np.log(np.exp(logits_V.astype(np.float64)).sum())
    token = told_token(logits_V, 17, 5)
    assert token.logprob == pytest.approx(wanted[17], abs=1e-5)
    best = np.argsort(-wanted, kind="stable")[:5]
    assert [each for each, _ in token.top] == best.tolist()
    assert [value for _, value in token.top] == pytest.approx(wanted[best].tolist(), abs=1e-5)
    # Before penalties and at temperature 1, whatever the draw did.
    chooser = Chooser(ask_for([1], top_logprobs=0, presence_penalty=2.0, sampling=Sampling(2.0)))
    chooser.take(17)
    assert chooser.tell(logits_V, 17) == told_token(logits_V, 17, 0)
    assert Chooser(ask_for([1])).tell(logits_V, 17).logprob is None
