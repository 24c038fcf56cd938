"""Real trainings by preference: held-out pairs come into order, and a killed one ends as a straight one does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from kivnun.data.mismatched import add_mismatched
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.methods import FullMethod, LoraMethod, Method
from kivnun.recipe.objectives import DpoObjective, KtoObjective, Objective, OrpoObjective
from kivnun.recipe.training import TrainingSection
from kivnun.training.objectives import make_objective
from kivnun.training.objectives.reference import with_reference
from kivnun.training.optimizer import make_master_weights
from kivnun.training.score import document_losses
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation

SECTIONS: list[Objective] = [DpoObjective(), OrpoObjective(), KtoObjective()]
BY_KIND = [pytest.param(section, id=section.kind) for section in SECTIONS]


def pairs(num_rows: int, *, seed: int) -> TokenTable:
    """Prompts of any tokens; the preferred answer speaks in some tokens, the rejected one in others."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(num_rows):
        prompt = random.integers(3, 390, size=3).tolist()
        length = int(random.integers(3, 8))
        for first in (100, 200):
            ids = random.integers(first, first + 40, size=length).tolist()
            documents.append(TokenizedRow([*prompt, *ids], [False] * 3 + [True] * length))
    return make_table(documents, documents_per_row=2)


def table_for(section: Objective, num_rows: int, *, seed: int) -> TokenTable:
    table = pairs(num_rows, seed=seed)
    if section.kind != "kto":
        return table
    rows = [TokenizedRow(table.input_ids(d).tolist(), table.trained(d).tolist()) for d in range(table.num_documents)]
    return add_mismatched(make_table(rows, labels=[1.0, 0.0] * num_rows))


class KilledError(Exception):
    """Stands for a power cut."""


class Events:
    """Collects events, and kills the training at a step."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.lines: list[tuple[str, Mapping[str, object]]] = []

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append((event, fields))
        if event == "step" and fields["step"] == self.kill_at:
            raise KilledError

    def of(self, kind: str) -> list[Mapping[str, object]]:
        return [fields for event, fields in self.lines if event == kind]


def run(base: Path, folder: Path, section: Objective, method: Method, log: Events, **fields: object):
    """A training as a new process would start it: the model at its end, and its masters and optimizer state."""
    chosen = {"epochs": 100, "precision": "fp32", "objective": section, "learning_rate": 0.003, **fields}
    settings = TrainingSection.model_validate(chosen)
    model = load_model(base, dtype=torch.float32)
    make_method(method).prepare(model, generator=torch.Generator().manual_seed(0))
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    validation = Validation(table_for(section, 6, seed=2))
    job = Job(model, weights, table_for(section, 40, seed=1), validation, settings, make_objective(section))
    train(job, checkpoints=Checkpoints(folder, "key"), log=log)
    return model, {name: value.clone() for name, value in weights.tensors().items()}


def share_in_order(model: torch.nn.Module) -> float:
    table = pairs(40, seed=3)
    sums, _ = document_losses(model, table, batch_tokens=500)
    return float(np.mean(np.asarray(sums[::2]) < np.asarray(sums[1::2])))


@pytest.mark.parametrize("section", BY_KIND)
def test_held_out_pairs_come_into_order(tiny_model_folder: Path, tmp_path: Path, section: Objective):
    untrained = load_model(tiny_model_folder, dtype=torch.float32)
    use_packed_attention(untrained)
    assert share_in_order(untrained) < 0.7
    log = Events()
    fields = {"max_steps": 40, "batch_tokens": 400, "validate_every_steps": 20}
    model, _ = run(tiny_model_folder, tmp_path, section, FullMethod(), log, **fields)
    assert share_in_order(model) > 0.9
    steps, validations = log.of("step"), log.of("validation")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert validations[-1]["loss"] < validations[0]["loss"]
    if section.kind == "kto":
        assert steps[-1]["reward_good"] > 0 > steps[-1]["reward_bad"]
        assert steps[-1]["kl"] >= 0
    else:
        assert validations[-1]["reward_accuracy"] > 0.9
        assert steps[-1]["reward_margin"] > steps[0]["reward_margin"]
        assert steps[-1]["reward_margin"] == pytest.approx(steps[-1]["reward_chosen"] - steps[-1]["reward_rejected"])


@pytest.mark.parametrize("section", BY_KIND)
def test_a_killed_training_by_preference_ends_as_a_straight_one(
    tiny_model_folder: Path, tmp_path: Path, section: Objective
):
    method = LoraMethod(rank=4, alpha=8, dropout=0.2)
    fields = {"max_steps": 4, "batch_tokens": 200, "gradient_accumulation_steps": 2, "save_every_steps": 1}
    straight, killed, resumed = Events(), Events(kill_at=3), Events()
    _, expected = run(tiny_model_folder, tmp_path / "straight", section, method, straight, **fields)
    with pytest.raises(KilledError):
        run(tiny_model_folder, tmp_path / "killed", section, method, killed, **fields)
    _, found = run(tiny_model_folder, tmp_path / "killed", section, method, resumed, **fields)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert resumed.of("resumed")[0]["step"] == 2

    def numbers(log: Events) -> dict[object, object]:
        return {each["step"]: {k: v for k, v in each.items() if k != "seconds"} for each in log.of("step")}

    assert {**numbers(killed), **numbers(resumed)} == numbers(straight)


def test_the_reference_of_a_lora_is_that_of_its_base_model(tiny_model_folder: Path):
    """B is zero before the first step, and dropout is off while the reference is made."""
    base, lora = (load_model(tiny_model_folder, dtype=torch.float32) for _ in range(2))
    method = LoraMethod(rank=4, alpha=8, dropout=0.5)
    make_method(method).prepare(lora, generator=torch.Generator().manual_seed(0))
    for model in (base, lora):
        use_packed_attention(model)
    one, other = (with_reference(model.train(), pairs(6, seed=1), batch_tokens=90) for model in (base, lora))
    np.testing.assert_allclose(one.reference, other.reference, rtol=1e-6)
