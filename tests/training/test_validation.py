"""Which step is the best one, when training stops, what is said of overfitting and of broken losses."""

import json
import math
from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.training import TrainingSection
from kivnun.training.checkpoint import Progress
from kivnun.training.optimizer import make_master_weights
from kivnun.training.overfitting import LossPair, describe_overfitting
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation, judge, patience_is_over


def judged(values: list[float], **fields: object) -> list[Progress]:
    """Where a run stands after each of some validations."""
    settings = TrainingSection(**fields)
    progress, found = Progress(), []
    for step, value in enumerate(values, start=1):
        progress, _ = judge(Progress(**{**vars(progress), "step": step}), {settings.best_metric: value}, settings)
        found.append(progress)
    return found


def test_of_losses_the_lowest_is_best_and_of_accuracies_the_highest():
    assert [p.best_step for p in judged([3.0, 2.0, 2.5, 1.9])] == [1, 2, 2, 4]
    accuracy = {"best_metric": "accuracy", "validation_metrics": ("accuracy",)}
    assert [p.best_step for p in judged([0.3, 0.2, 0.5, 0.5], **accuracy)] == [1, 1, 3, 3]


def test_patience_counts_validations_that_are_not_better_by_enough():
    patient = {"early_stopping_patience": 2, "early_stopping_min_delta": 0.2}
    runs = judged([3.0, 2.9, 2.5, 2.4, 2.35], **patient)
    settings = TrainingSection(**patient)
    assert [progress.stale_validations for progress in runs] == [0, 1, 0, 1, 2]
    assert [patience_is_over(progress, settings) for progress in runs] == [False, False, False, False, True]
    # A little better is still the best step, though it does not renew the patience.
    assert runs[-1].best_step == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_that_is_no_number_is_an_error(value: float):
    with pytest.raises(UserError) as caught:
        judged([value])
    assert caught.value.code == "loss-not-finite"


def pairs(train: list[float], validation: list[float]) -> list[LossPair]:
    return [LossPair(step, *losses) for step, losses in enumerate(zip(train, validation, strict=True), start=1)]


def test_overfitting_is_a_rising_validation_loss_under_a_falling_training_loss():
    words = describe_overfitting(pairs([3.0, 2.0, 1.0, 0.5], [2.5, 2.0, 2.2, 2.4]))
    assert words is not None
    assert "from 2.0000 to 2.4000" in words
    assert "step 2 was the best" in words


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([3.0, 2.0, 1.0], [2.5, 2.0, 2.2]),  # one rise is noise
        ([3.0, 2.0, 1.0, 0.9], [2.5, 2.0, 2.2, 2.1]),  # it fell again
        ([2.0, 2.5, 3.0, 3.5], [2.0, 2.1, 2.2, 2.3]),  # both rise: the learning rate, not overfitting
        ([3.0], [3.0]),
    ],
)
def test_nothing_is_said_where_it_is_something_else(train: list[float], validation: list[float]):
    assert describe_overfitting(pairs(train, validation)) is None


def start(folder: Path, rows: TokenTable, validation: Validation, **fields: object) -> Job:
    settings = TrainingSection(
        **{"batch_tokens": 40, "learning_rate": 0.01, "precision": "fp32", "validate_every_steps": 2, **fields}
    )
    model = load_model(folder, dtype=torch.float32)
    use_packed_attention(model)
    return Job(model, make_master_weights(model, settings), rows, validation, settings)


def test_the_best_step_by_a_measured_metric_is_the_one_that_is_kept(
    tiny_model_folder: Path, tiny_table: TokenTable, tiny_validation_table: TokenTable, tmp_path: Path
):
    values = iter([0.1, 0.7, 0.4])
    validation = Validation(tiny_validation_table, lambda: {"accuracy": next(values)})
    fields = {"max_steps": 6, "best_metric": "accuracy", "validation_metrics": ("accuracy",)}
    job = start(tiny_model_folder, tiny_table, validation, **fields)
    events: list[tuple[str, dict]] = []
    progress = train(job, checkpoints=Checkpoints(tmp_path, "key"), log=lambda *event: events.append(event))
    assert (progress.best_step, progress.best_value) == (4, 0.7)
    said = [fields for event, fields in events if event == "validation"]
    assert [(fields["step"], fields["accuracy"], fields["best"]) for fields in said] == [
        (2, 0.1, True),
        (4, 0.7, True),
        (6, 0.4, False),
    ]
    assert all("loss" in fields for fields in said)


def test_rows_learnt_by_heart_are_called_overfitting_once(
    tiny_model_folder: Path, unrelated_table: TokenTable, tiny_table: TokenTable, tmp_path: Path
):
    job = start(tiny_model_folder, unrelated_table, Validation(tiny_table), max_steps=60, learning_rate=0.02, epochs=99)
    events: list[tuple[str, dict]] = []
    train(job, checkpoints=Checkpoints(tmp_path, "key"), log=lambda *event: events.append(event))
    said = [fields for event, fields in events if event == "overfitting"]
    assert said
    losses = [fields["loss"] for event, fields in events if event == "validation"]
    assert len(said) < len(losses) / 4


def test_the_rows_of_a_step_whose_loss_is_no_number_are_written_out(
    tiny_model_folder: Path, tiny_validation_table: TokenTable, tmp_path: Path
):
    """Token 399 stands in one row only, and its embedding is broken."""
    rows = make_table(
        TokenizedRow([first, first + 1, last], [False, True, True]) for first, last in [(5, 6), (7, 399), (9, 10)]
    )
    job = start(tiny_model_folder, rows, Validation(tiny_validation_table), max_steps=2)
    with torch.no_grad():
        job.model.get_input_embeddings().weight[399] = math.nan
    job = Job(**{**vars(job), "describe_row": lambda row: {"where": f"rows.jsonl:{row + 1}", "prompt": "שלום"}})
    with pytest.raises(UserError) as caught:
        train(job, checkpoints=Checkpoints(tmp_path, "key"), log=lambda *_: None)
    assert caught.value.code == "loss-not-finite"
    path = tmp_path / "bad-batch" / "step-000001.jsonl"
    assert str(path) in caught.value.details[0]
    written = {line["row"]: line for line in map(json.loads, path.read_text("utf-8").splitlines())}
    assert set(written) == {0, 1, 2}
    assert written[1]["where"] == "rows.jsonl:2"
    assert "שלום" in path.read_text("utf-8")
    # The head is tied to the broken embedding, so that every row's loss is broken with it.
    assert all(line["loss"] == "nan" for line in written.values())
