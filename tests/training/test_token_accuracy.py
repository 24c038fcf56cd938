"""The share of trained tokens that the model holds for the likeliest, counted where the loss has the logits anyway."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.objectives import DpoObjective, TextObjective
from kivnun.recipe.training import COMPUTING_SETTINGS, TrainingSection
from kivnun.training.loop import make_plan
from kivnun.training.loss import CHUNK_TARGETS, choose_compiled_loss, summed_cross_entropy
from kivnun.training.objectives import make_objective
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import make_master_weights
from kivnun.training.plan_checks import check_plan
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation, mean_loss


def answer(model: Model, table: TokenTable, row: int) -> tuple[Tensor, Tensor]:
    """What the model holds for the likeliest next token at each place of a row, and where the next one is trained."""
    ids = torch.from_numpy(table.input_ids(row).astype("int64"))
    with torch.no_grad():
        likeliest = model(input_ids=ids.unsqueeze(0)).logits[0].argmax(-1)
    trained = torch.from_numpy(table.trained(row).astype(bool))[1:]
    return (likeliest[:-1] == ids[1:])[trained], trained


def learn_a_little(model: Model, table: TokenTable) -> None:
    """Enough that some tokens are right and some are not."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        Supervised().loss(model, pack(table, range(len(table))), None).total.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_it_is_the_share_of_right_ones_however_batches_are_cut(
    tiny_model: Model, tiny_model_folder: Path, tiny_table: TokenTable, budget: int
):
    use_packed_attention(tiny_model)
    learn_a_little(tiny_model, tiny_table)
    plain = load_model(tiny_model_folder, dtype=torch.float32)
    plain.load_state_dict(tiny_model.state_dict())
    right = torch.cat([answer(plain, tiny_table, row)[0] for row in range(len(tiny_table))])
    assert 0 < right.float().mean() < 1
    measured = mean_loss(tiny_model, tiny_table, batch_tokens=budget, objective=Supervised(token_accuracy=True))
    assert measured["token_accuracy"] == pytest.approx(float(right.double().mean()))
    assert set(mean_loss(tiny_model, tiny_table, batch_tokens=budget)) == {"loss"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_targets", [1, CHUNK_TARGETS, 2 * CHUNK_TARGETS + 5])
def test_of_equal_logits_the_first_is_the_likeliest_as_when_answering(num_targets: int, dtype: torch.dtype):
    hidden = torch.randint(-2, 3, (num_targets, 3)).to(dtype)
    weight = torch.randint(-2, 3, (50, 3)).to(dtype)
    likeliest = (hidden @ weight.T).argmax(1)
    targets = torch.where(torch.arange(num_targets) % 2 == 0, likeliest, (likeliest + 1) % 50)
    is_right = torch.empty(num_targets, dtype=torch.bool)
    summed_cross_entropy(hidden, weight, targets, is_right_M=is_right)
    assert is_right.tolist() == (targets == likeliest).tolist()


COMPILED = pytest.param(
    True,
    marks=[
        pytest.mark.slow,
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
    ],
)


@pytest.mark.parametrize("compiled", [False, COMPILED])
def test_asking_for_it_changes_no_bit_of_loss_and_gradients(compiled: bool):
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 16, requires_grad=True), torch.randn(70, 16, requires_grad=True)
    targets = torch.randint(0, 70, (300,))
    choose_compiled_loss(wanted=compiled)
    try:
        found = []
        for is_right in (None, torch.empty(300, dtype=torch.bool)):
            loss = summed_cross_entropy(hidden, weight, targets, is_right_M=is_right)
            found.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight))))
    finally:
        choose_compiled_loss(wanted=False)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_token_counts_by_its_weight(tiny_model: Model, tiny_table: TokenTable):
    use_packed_attention(tiny_model)
    learn_a_little(tiny_model, tiny_table)
    whole = pack(tiny_table, range(len(tiny_table)))
    num_targets = len(whole.target_ids)
    objective = Supervised(token_accuracy=True)
    alone = []
    for place in range(num_targets):
        weights = torch.zeros(num_targets)
        weights[place] = 2.5
        alone.append(objective.loss(tiny_model, replace(whole, target_weights=weights), None).metrics["token_accuracy"])
    assert set(alone) == {0.0, 2.5}
    assert sum(alone) / 2.5 == objective.loss(tiny_model, whole, None).metrics["token_accuracy"]


def run(
    base: Path, tables: tuple[TokenTable, TokenTable], run_dir: Path, *, token_accuracy: bool
) -> list[tuple[str, Mapping[str, object]]]:
    chosen = TrainingSection(
        epochs=2,
        batch_tokens=60,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        precision="fp32",
        token_accuracy=token_accuracy,
    )
    model = load_model(base, dtype=torch.float32)
    use_packed_attention(model)
    objective = make_objective(chosen.objective, token_accuracy=chosen.token_accuracy)
    lines: list[tuple[str, Mapping[str, object]]] = []
    job = Job(model, make_master_weights(model, chosen), tables[0], Validation(tables[1]), chosen, objective)
    train(job, checkpoints=Checkpoints(run_dir, "key"), log=lambda event, fields: lines.append((event, dict(fields))))
    return lines


def test_a_training_tells_it_and_learns_the_same_to_the_bit(
    tiny_model_folder: Path, tiny_table: TokenTable, tiny_validation_table: TokenTable, tmp_path: Path
):
    tables = (tiny_table, tiny_validation_table)
    told = run(tiny_model_folder, tables, tmp_path / "with", token_accuracy=True)
    silent = run(tiny_model_folder, tables, tmp_path / "without", token_accuracy=False)
    for kind in ("step", "validation"):
        ours, theirs = ([fields for event, fields in lines if event == kind] for lines in (told, silent))
        assert [fields["loss"] for fields in ours] == [fields["loss"] for fields in theirs]
        assert all(0 <= fields["token_accuracy"] <= 1 for fields in ours)
        assert not any("token_accuracy" in fields for fields in theirs)
    states = [sorted((tmp_path / name / "checkpoints").rglob("state.safetensors")) for name in ("with", "without")]
    assert [path.read_bytes() for path in states[0]] == [path.read_bytes() for path in states[1]]


def test_a_run_goes_on_when_only_what_is_told_of_it_changes():
    assert {"keep_epochs", "token_accuracy"} <= COMPUTING_SETTINGS


def test_running_text_has_it_and_what_cannot_have_it_says_so(tiny_table: TokenTable):
    assert make_objective(TextObjective(), token_accuracy=True) == Supervised(token_accuracy=True)
    chosen = TrainingSection(objective=DpoObjective(), token_accuracy=True)
    plan = make_plan(tiny_table.lengths(), chosen)
    [note] = check_plan(plan, tiny_table, tiny_table, chosen)
    assert note == "training.token_accuracy: dpo does not measure it; supervised and text do"
    assert check_plan(plan, tiny_table, tiny_table, TrainingSection(token_accuracy=True)) == []
