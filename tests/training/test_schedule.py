"""The learning rate, step by step, against statements that do not share the code's formula."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.recipe.training import TrainingSection
from kivnun.training.schedule import learning_rate_at


def rates(num_steps: int, **fields: object) -> list[float]:
    settings = TrainingSection(learning_rate=1.0, **fields)
    return [learning_rate_at(step, num_steps, settings) for step in range(num_steps)]


def test_linear_by_hand():
    assert rates(10, schedule="linear", warmup_ratio=0.4) == pytest.approx(
        [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )


def test_linear_to_a_tenth_by_hand():
    assert rates(3, schedule="linear", warmup_ratio=0, final_learning_rate_ratio=0.1) == pytest.approx([1, 0.7, 0.4])


def test_cosine_by_hand():
    assert rates(5, schedule="cosine", warmup_ratio=0.2) == pytest.approx([1, 1, 0.853553391, 0.5, 0.146446609])


def test_warmup_stable_decay_by_hand():
    assert rates(10, schedule="wsd", warmup_ratio=0.2, decay_ratio=0.4) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    )
    assert rates(10, schedule="wsd", warmup_ratio=0) == pytest.approx([1] * 9 + [0.5])


def test_a_training_of_one_step_learns():
    for schedule in ("linear", "cosine", "constant", "wsd"):
        assert rates(1, schedule=schedule, warmup_ratio=0) == [1]


def test_without_a_decay_wsd_stays_at_the_peak():
    assert rates(4, schedule="wsd", warmup_ratio=0, decay_ratio=0.0) == [1] * 4


def test_constant_by_hand():
    assert rates(4, schedule="constant", warmup_ratio=0.5) == pytest.approx([0.5, 1, 1, 1])


def test_a_warm_up_of_less_than_a_step_is_one_step():
    assert rates(10, schedule="constant", warmup_ratio=0.01) == pytest.approx([1] * 10)


@given(
    num_steps=st.integers(1, 300),
    warmup_ratio=st.floats(0, 0.99),
    schedule=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
    final=st.floats(0, 1),
)
def test_every_schedule_rises_once_and_never_again(num_steps: int, warmup_ratio: float, schedule: str, final: float):
    end = {} if schedule == "constant" else {"final_learning_rate_ratio": final}
    values = rates(num_steps, schedule=schedule, warmup_ratio=warmup_ratio, **end)
    top = values.index(max(values))
    assert values[: top + 1] == sorted(values[: top + 1])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(values[top:], values[top + 1 :], strict=False))
    assert min(values) >= 0
    assert max(values) <= 1
    num_warmup = math.ceil(warmup_ratio * num_steps - 1e-9)
    if num_warmup:
        assert values[num_warmup - 1] == pytest.approx(1)
    if num_warmup < num_steps:
        # The end would be reached one step later: no step is computed for nothing.
        assert values[num_warmup] == pytest.approx(1)
        assert values[-1] >= min(final, 1)
        assert values[-1] > 0
