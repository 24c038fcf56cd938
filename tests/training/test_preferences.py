"""DPO, ORPO and KTO as equalities with their papers' formulas, written out on whole logits."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kivnun.data.mismatched import add_mismatched
from kivnun.data.packing import pack
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.training.objectives import Objective
from kivnun.training.objectives.dpo import Dpo, preference_losses
from kivnun.training.objectives.kto import Kto
from kivnun.training.objectives.log_probabilities import score_answers, target_losses
from kivnun.training.objectives.orpo import Orpo, log_odds
from kivnun.training.objectives.reference import with_reference
from kivnun.training.objectives.selection import select_documents
from kivnun.training.validation import mean_loss

BETA = 0.3
OBJECTIVES: list[Objective] = [Dpo(BETA), Dpo(BETA, 0.2), Orpo(BETA), Kto(BETA, 1.5, 0.7)]


def answer(prompt: Sequence[int], ids: Sequence[int], weights: list[float] | None = None) -> TokenizedRow:
    return TokenizedRow([*prompt, *ids], [False] * len(prompt) + [True] * len(ids), weights)


def random_pairs(num_rows: int, *, seed: int = 0) -> TokenTable:
    """Two answers of their own lengths to each prompt."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(num_rows):
        prompt = random.integers(3, 390, size=random.integers(2, 6)).tolist()
        documents += [answer(prompt, random.integers(3, 390, size=random.integers(1, 9)).tolist()) for _ in range(2)]
    return make_table(documents, documents_per_row=2)


def random_judged(num_rows: int, *, seed: int = 0) -> TokenTable:
    """One answer to each prompt, good or bad in turn."""
    pairs = random_pairs(num_rows, seed=seed)
    documents = [TokenizedRow(pairs.input_ids(2 * r).tolist(), pairs.trained(2 * r).tolist()) for r in range(num_rows)]
    return make_table(documents, labels=[float(row % 3 != 0) for row in range(num_rows)])


def table_of(objective: Objective, num_rows: int) -> TokenTable:
    return add_mismatched(random_judged(num_rows)) if isinstance(objective, Kto) else random_pairs(num_rows)


@pytest.fixture
def models(tiny_model_folder) -> tuple[Model, Model]:
    """A base model, and one whose weights are a little further on: to it, mismatched answers are likelier."""
    tuned, base = (load_model(tiny_model_folder, dtype=torch.float32) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    use_packed_attention(base)
    use_packed_attention(tuned)
    return base, tuned


def plain_scores(model: Model, table: TokenTable) -> tuple[Tensor, Tensor]:
    """Log-probability and number of every document's targets, by the model's own attention and whole logits."""
    use_standard_attention(model)
    sums, counts = [], []
    for document in range(table.num_documents):
        ids = torch.from_numpy(table.input_ids(document).astype("int64"))
        trained = torch.from_numpy(table.trained(document).astype(bool))[1:]
        log_p = model(input_ids=ids.unsqueeze(0)).logits[0].double().log_softmax(-1)
        sums.append(log_p[:-1].gather(1, ids[1:, None])[trained, 0].sum())
        counts.append(trained.sum())
    use_packed_attention(model)
    return torch.stack(sums), torch.stack(counts)


def plain_loss(objective: Objective, tuned: Model, base: Model, table: TokenTable) -> Tensor:
    """The mean loss as the papers write it, with a second model for the base."""
    policy, counts = (each.view(-1, 2) for each in plain_scores(tuned, table))
    with torch.no_grad():
        reference = plain_scores(base, table)[0].view(-1, 2)
    ratio = policy - reference
    if isinstance(objective, Dpo):  # equation 7, and the conservative one with its labels smoothed
        margin = objective.beta * (ratio[:, 0] - ratio[:, 1])
        smooth = objective.label_smoothing
        return (-(1 - smooth) * logsigmoid(margin) - smooth * logsigmoid(-margin)).mean()
    if isinstance(objective, Orpo):  # equations 1, 4, 6 and 7
        likelihood = (policy / counts).exp()
        odds = likelihood / (1 - likelihood)
        return (-likelihood[:, 0].log() - objective.beta * logsigmoid(torch.log(odds[:, 0] / odds[:, 1]))).mean()
    assert isinstance(objective, Kto)  # equations 7 and 8
    reward, z0 = ratio[:, 0], ratio[:, 1].detach().mean().clamp(min=0)
    good = torch.sigmoid(objective.beta * (reward - z0))
    bad = torch.sigmoid(objective.beta * (z0 - reward))
    is_good = torch.from_numpy(table.labels) > 0
    value = torch.where(is_good, objective.desirable_weight * good, objective.undesirable_weight * bad)
    most = torch.where(is_good, objective.desirable_weight, objective.undesirable_weight)
    return (most - value).mean()


def step(objective: Objective, model: Model, table: TokenTable, parts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Loss and metrics of one step over micro-batches; the mean's gradients are left in the model."""
    batches = [pack(table, part) for part in parts]
    sums, count = {"loss": 0.0}, 0.0
    for batch, known in zip(batches, objective.prepare_step(model, batches), strict=True):
        loss = objective.loss(model, batch, known)
        loss.total.backward()
        count += objective.count(batch)
        for name, value in {"loss": loss.reported, **loss.metrics}.items():
            sums[name] = sums.get(name, 0.0) + value
    for parameter in model.parameters():
        parameter.grad /= count
    return {name: value / count for name, value in sums.items()}


def take_gradients(model: Model) -> dict[str, Tensor]:
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("trains_head", [True, False])
def test_each_targets_loss_has_the_gradients_of_the_whole_logits(trains_head: bool, monkeypatch):
    monkeypatch.setattr("kivnun.training.objectives.log_probabilities.CHUNK_TARGETS", 3)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 4, generator=generator, dtype=torch.float64, requires_grad=trains_head)
    target = torch.randint(11, (7,), generator=generator)
    losses = target_losses(hidden, weight, target)
    torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(hidden @ weight.T, target, reduction="none"))
    assert torch.autograd.gradcheck(lambda h, w: target_losses(h, w, target), (hidden, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_have_the_type_of_what_they_belong_to(dtype: torch.dtype):
    hidden, weight = (torch.randn(rows, 8, dtype=dtype, requires_grad=True) for rows in (5, 20))
    losses = target_losses(hidden, weight, torch.arange(5))
    losses.double().sum().backward()
    assert losses.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == dtype


def test_answers_are_scored_as_the_whole_logits_score_them(models):
    table = random_pairs(9)
    scores = score_answers(models[1], pack(table, [4, 0, 7, 2]))
    sums, counts = (each.view(-1, 2)[[0, 2, 4, 7]] for each in plain_scores(models[1], table))
    torch.testing.assert_close(scores.log_probability, sums, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.num_targets, counts.double())


def test_the_base_models_view_is_every_documents_log_probability(models):
    table = random_pairs(9)
    models[0].train()
    done = with_reference(models[0], table, batch_tokens=40)
    assert models[0].training
    torch.testing.assert_close(torch.from_numpy(done.reference).double(), plain_scores(models[0], table)[0])
    again = with_reference(models[0].eval(), table, batch_tokens=40)
    assert not models[0].training
    assert np.array_equal(done.reference, again.reference)


def test_dropout_is_off_while_the_base_model_is_asked(tiny_model_folder):
    model = load_model(tiny_model_folder, dtype=torch.float32)
    use_packed_attention(model)
    plain = with_reference(model, random_pairs(3), batch_tokens=100)
    norm = model.model.norm
    model.model.norm = torch.nn.Sequential(norm, torch.nn.Dropout(0.5))
    model.train()
    assert np.array_equal(with_reference(model, random_pairs(3), batch_tokens=100).reference, plain.reference)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_loss_and_gradients_are_those_of_the_papers_formulas(objective: Objective, models, *, turned: bool):
    """Turned round, the distance that KTO estimates is below zero and cut off."""
    base, tuned = models[::-1] if turned else models
    table = table_of(objective, 8)
    started = objective.start(base, table, batch_tokens=60)
    metrics = step(objective, tuned, started, [range(8)])
    loss = metrics["loss"]
    assert ("kl" in metrics) == isinstance(objective, Kto)
    assert (metrics.get("kl", 1) > 0) or turned
    found = take_gradients(tuned)
    expected = plain_loss(objective, tuned, base, table)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, gradient in take_gradients(tuned).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_splitting_a_step_of_preferences_changes_nothing(objective: Objective, models):
    base, tuned = models
    started = objective.start(base, table_of(objective, 8), batch_tokens=60)
    whole = step(objective, tuned, started, [range(8)])
    expected = take_gradients(tuned)
    parts = step(objective, tuned, started, [[0, 5], [1], [2, 3, 4, 6, 7]])
    assert parts == pytest.approx(whole, rel=1e-4)
    for name, gradient in take_gradients(tuned).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("objective", [Dpo(BETA), Kto(BETA)], ids=repr)
def test_nothing_is_preferred_before_the_first_step(objective: Objective, models):
    base, _ = models
    started = objective.start(base, table_of(objective, 6), batch_tokens=60)
    found = step(objective, base, started, [range(6)])
    assert found["loss"] == pytest.approx(math.log(2) if isinstance(objective, Dpo) else 0.5, rel=1e-5)
    rewards = [value for name, value in found.items() if name.startswith("reward_") and name != "reward_accuracy"]
    assert rewards == pytest.approx([0.0] * len(rewards), abs=1e-5)


@pytest.mark.parametrize("objective", [Dpo(BETA), Orpo(BETA)], ids=repr)
def test_a_step_down_the_gradient_raises_the_preferred_answer_over_the_rejected_one(objective: Objective, models):
    base, tuned = models
    started = objective.start(base, random_pairs(6), batch_tokens=60)
    before = step(objective, tuned, started, [range(6)])
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.sub_(0.05 * parameter.grad)
    tuned.zero_grad()
    after = step(objective, tuned, started, [range(6)])
    assert after["loss"] < before["loss"]
    assert after["reward_margin"] > before["reward_margin"]


def test_a_larger_beta_holds_on_to_the_base_model_more(models):
    """Where a pair is already in order, the gradient falls off by sigmoid(-beta times the margin)."""
    margin = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    slopes = []
    for beta in (0.1, 1.0, 5.0):
        [gradient] = torch.autograd.grad(preference_losses(beta * margin, 0.0).sum(), margin)
        slopes.append(float(gradient))
        assert slopes[-1] == pytest.approx(-beta / (1 + math.exp(4 * beta)))
    assert abs(slopes[2]) < abs(slopes[0])


def test_a_good_answer_rises_and_a_bad_one_falls_under_kto(models):
    base, _ = models
    objective = Kto(BETA)
    table = add_mismatched(random_judged(6))
    started = objective.start(base, table, batch_tokens=60)
    step(objective, base, started, [range(6)])
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.sub_(0.3 * parameter.grad)
    moved = (with_reference(base, table, batch_tokens=60).reference - started.reference)[::2]
    assert moved[table.labels > 0].mean() > 0 > moved[table.labels == 0].mean()


def test_the_weights_of_kto_weigh_good_and_bad_rows(models):
    base, tuned = models
    table = add_mismatched(random_judged(6))
    started = Kto(BETA).start(base, table, batch_tokens=60)
    only_good, only_bad, both = (
        step(Kto(BETA, *weights), tuned, started, [range(6)])["loss"] for weights in ((1, 1e-12), (1e-12, 1), (2, 3))
    )
    assert both == pytest.approx(2 * only_good + 3 * only_bad, rel=1e-6)


def test_ktos_metrics_are_means_over_the_rows_that_they_speak_of(models):
    base, tuned = models
    table = add_mismatched(random_judged(7))
    started = Kto(BETA).start(base, table, batch_tokens=60)
    found = step(Kto(BETA), tuned, started, [[0, 3], [1, 2, 4, 5, 6]])
    ratio = (plain_scores(tuned, table)[0] - torch.from_numpy(started.reference)).detach().view(-1, 2)
    is_good = torch.from_numpy(table.labels) > 0
    assert found["reward_good"] == pytest.approx(BETA * float(ratio[is_good, 0].mean()), rel=1e-4)
    assert found["reward_bad"] == pytest.approx(BETA * float(ratio[~is_good, 0].mean()), rel=1e-4)
    assert found["kl"] == pytest.approx(max(0.0, float(ratio[:, 1].mean())), rel=1e-4)


def test_the_targets_of_mismatched_answers_are_not_counted(models):
    tuned, base = models
    table = with_reference(base, table_of(Kto(BETA), 5), batch_tokens=99)
    batch = pack(table, range(5))
    [prepared] = Kto(BETA).prepare_step(tuned, [batch])
    learnt = sum(int(table.trained(document).sum()) for document in range(0, 10, 2))
    assert Kto(BETA).loss(tuned, batch, prepared).num_targets == learnt < len(batch.target_ids)


@pytest.mark.parametrize("batch_tokens", [30, 1000])
def test_ktos_validation_does_not_depend_on_how_it_is_cut(models, batch_tokens: int):
    base, tuned = models
    started = Kto(BETA).start(base, add_mismatched(random_judged(8)), batch_tokens=60)
    whole = step(Kto(BETA), tuned, started, [range(8)])
    assert whole["kl"] > 0
    assert mean_loss(tuned, started, batch_tokens=batch_tokens, objective=Kto(BETA)) == pytest.approx(whole, rel=1e-5)


def test_selected_documents_are_packed_as_if_they_were_alone(models):
    table = with_reference(models[0], random_pairs(6), batch_tokens=60)
    for number in range(2):
        documents = [2 * row + number for row in range(6)]
        rows = [TokenizedRow(table.input_ids(d).tolist(), table.trained(d).tolist()) for d in documents]
        alone = pack(make_table(rows), [4, 1, 5])
        chosen = select_documents(pack(table, [4, 1, 5]), number)
        assert chosen.lengths == alone.lengths
        assert chosen.documents == tuple(2 * document + number for document in alone.documents)
        for name in ("input_ids", "position_ids", "target_positions", "target_ids"):
            assert torch.equal(getattr(chosen, name), getattr(alone, name))
        assert chosen.reference.tolist() == table.reference[list(chosen.documents)].tolist()


@pytest.mark.parametrize("log_p", [-200.0, -3.0, -math.log(2), -0.1, -1e-6])
def test_log_odds_keep_their_digits(log_p: float):
    value = torch.tensor(log_p, dtype=torch.float64, requires_grad=True)
    found = log_odds(value)
    assert float(found.detach()) == pytest.approx(log_p - math.log(-math.expm1(log_p)), rel=1e-9)
    found.backward()
    assert float(value.grad) == pytest.approx(1 / -math.expm1(log_p), rel=1e-6)


def test_a_certain_answer_has_finite_odds():
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_odds(value).backward()
    assert float(log_odds(value).detach()) == pytest.approx(16.1, abs=0.1)
    assert float(value.grad) == 0.0
