"""One optimizer step and the plan of a run, as equalities."""

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import StepReport, fit, make_plan
from kivnun.training.optimizer import make_master_weights


def settings(**fields: object) -> TrainingSection:
    return TrainingSection(**{"learning_rate": 0.01, "batch_tokens": 100, "precision": "fp32", "epochs": 100, **fields})


def run(model: Model, table: TokenTable, chosen: TrainingSection) -> list[StepReport]:
    use_packed_attention(model)
    weights = make_master_weights(model, chosen)
    return list(fit(model, weights, table, chosen, plan=make_plan(table.lengths(), chosen)))


@pytest.mark.parametrize("parts", [2, 4, 100])
def test_splitting_a_batch_changes_nothing(tiny_model_folder, tiny_table: TokenTable, parts: int):
    whole, split = (load_model(tiny_model_folder, dtype=torch.float32) for _ in range(2))
    shared = {"max_steps": 3, "max_grad_norm": 0.5}
    one = run(whole, tiny_table, settings(batch_tokens=200, **shared))
    other = run(split, tiny_table, settings(batch_tokens=200 // parts, gradient_accumulation_steps=parts, **shared))
    for before, after in zip(one, other, strict=True):
        assert after.loss == pytest.approx(before.loss, rel=1e-5)
        assert after.grad_norm == pytest.approx(before.grad_norm, rel=1e-4)
        assert (after.num_tokens, after.num_targets) == (before.num_tokens, before.num_targets)
    for before, after in zip(whole.parameters(), split.parameters(), strict=True):
        # AdamW divides by the gradient's size, so rounding of a gradient near zero moves a weight by more than itself.
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


def test_the_gradient_norm_is_that_of_the_mean_loss(tiny_model_folder, tiny_table: TokenTable):
    """By the model's own attention and loss, one row at a time."""
    model, own = (load_model(tiny_model_folder, dtype=torch.float32) for _ in range(2))
    chosen = settings(max_steps=1)
    report = run(model, tiny_table, chosen)[0]
    [(_, rows)] = make_plan(tiny_table.lengths(), chosen).batches(0)
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.from_numpy(tiny_table.input_ids(row).astype("int64"))
        trained = torch.from_numpy(tiny_table.trained(row).astype(bool))
        log_p = own(input_ids=ids.unsqueeze(0)).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if trained[place]:
                total, count = total - log_p[place - 1, ids[place]], count + 1
    (total / count).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in own.parameters()]).norm()
    assert report.loss == pytest.approx(float(total.detach()) / count, rel=1e-5)
    assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)
    assert (report.num_targets, report.num_tokens) == (count, sum(tiny_table.length(row) for row in rows))


def test_training_learns(tiny_model: Model, tiny_table: TokenTable):
    reports = run(tiny_model, tiny_table, settings(max_steps=12, schedule="constant", warmup_ratio=0.0))
    assert reports[0].loss == pytest.approx(math.log(400), rel=0.05)
    assert reports[-1].loss < 0.9 * reports[0].loss


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tiny_model: Model, tiny_table: TokenTable):
    use_packed_attention(tiny_model)
    with torch.no_grad():
        tiny_model.model.norm.weight[0] = float("nan")
    before = {name: value.detach().clone() for name, value in tiny_model.named_parameters()}
    chosen = settings(max_steps=2)
    weights = make_master_weights(tiny_model, chosen)
    with pytest.raises(UserError, match="loss of step 1 is nan") as caught:
        list(fit(tiny_model, weights, tiny_table, chosen, plan=make_plan(tiny_table.lengths(), chosen)))
    assert caught.value.code == "loss-not-finite"
    assert "training rows of the step" in caught.value.details[0]
    for name, value in tiny_model.named_parameters():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_absurd_learning_rate_is_an_error_and_no_success(
    tiny_model_folder, tiny_table: TokenTable, dtype: torch.dtype
):
    model = load_model(tiny_model_folder, dtype=dtype)
    with pytest.raises(UserError) as caught:
        run(model, tiny_table, settings(learning_rate=1e30, max_steps=4))
    assert caught.value.code == "loss-not-finite"


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    epochs=st.integers(1, 3),
    parts=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_epoch_sees_every_row_once(lengths: list[int], epochs: int, parts: int, seed: int):
    chosen = settings(epochs=epochs, batch_tokens=60, gradient_accumulation_steps=parts, seed=seed)
    plan = make_plan(lengths, chosen)
    steps = list(plan.batches(0))
    assert len(steps) == plan.num_steps
    seen = sorted(row for _, rows in steps for row in rows)
    assert seen == sorted(list(range(len(lengths))) * epochs)
    assert steps[-1][0] == epochs
    for _, rows in steps:
        assert len(rows) == 1 or sum(lengths[row] for row in rows) <= 60 * parts


@given(start=st.integers(0, 12))
def test_a_plan_goes_on_at_any_step(start: int):
    plan = make_plan([7, 3, 9, 12, 5], settings(max_steps=10, batch_tokens=15))
    assert list(plan.batches(start)) == list(islice(plan.batches(0), start, None))


def test_parts_of_an_epoch_and_epochs_in_another_order():
    lengths = [10] * 20
    assert make_plan(lengths, settings(epochs=0.5, batch_tokens=20)).num_steps == 5
    assert make_plan(lengths, settings(epochs=1.5, batch_tokens=20)).num_steps == 15
    plan = make_plan(lengths, settings(epochs=2, batch_tokens=20))
    rows = [rows for _, rows in plan.batches(0)]
    assert rows[:10] != rows[10:]
    other = make_plan(lengths, settings(epochs=2, batch_tokens=20, seed=1))
    assert rows != [rows for _, rows in other.batches(0)]


@pytest.mark.parametrize(("epochs", "num_steps"), [(1.1, 11), (1.3, 13), (2.2, 22), (0.3, 3), (1.11, 12), (1e-12, 1)])
def test_a_part_of_an_epoch_costs_no_step_for_its_rounding(epochs: float, num_steps: int):
    assert make_plan([10] * 10, settings(epochs=epochs, batch_tokens=10)).num_steps == num_steps


@pytest.mark.parametrize(("max_steps", "num_steps"), [(1, 1), (9, 9), (20, 20), (21, 20), (500, 20)])
def test_a_training_ends_with_its_epochs_or_its_steps_whichever_are_over_first(max_steps: int, num_steps: int):
    plan = make_plan([10] * 20, settings(epochs=2, max_steps=max_steps, batch_tokens=20))
    assert (plan.num_steps, plan.epoch_steps) == (num_steps, 10)
    assert len(list(plan.batches(0))) == num_steps


def test_epochs_that_are_never_reached_are_not_counted():
    assert make_plan([10] * 20, settings(epochs=1e15, max_steps=15, batch_tokens=20)).num_steps == 15


def test_no_rows_are_refused_instead_of_waited_for():
    with pytest.raises(UserError) as caught:
        make_plan([], settings())
    assert caught.value.code == "nothing-to-learn"
