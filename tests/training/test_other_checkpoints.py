"""Checkpoints of another recipe, and settings that change how is computed: nothing is lost, and it is said."""

from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.training import COMPUTING_SETTINGS, TrainingSection
from kivnun.training.checkpoint import FOLDER, Progress
from kivnun.training.memory import coming_bytes, memory_errors_said
from kivnun.training.optimizer import make_master_weights
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation, judge


class StoppedError(Exception):
    """The process ends here."""


class Training:
    """Trains again and again as new processes would, and remembers what was said."""

    def __init__(self, base: Path, rows: TokenTable, validation: TokenTable, run_dir: Path) -> None:
        self.base, self.rows, self.validation, self.run_dir = base, rows, validation, run_dir

    def __call__(self, key: str, *, stop_at: int | None = None, **fields: object) -> list[tuple[str, dict]]:
        settings = TrainingSection(
            **{
                **{"max_steps": 6, "batch_tokens": 60, "learning_rate": 0.01, "precision": "fp32"},
                **{"save_every_steps": 1, "validate_every_steps": 2, **fields},
            }
        )
        model = load_model(self.base, dtype=torch.float32)
        use_packed_attention(model)
        events: list[tuple[str, dict]] = []

        def log(event: str, fields: dict) -> None:
            events.append((event, dict(fields)))
            if event == "step" and fields["step"] == stop_at:
                raise StoppedError

        job = Job(model, make_master_weights(model, settings), self.rows, Validation(self.validation), settings)
        try:
            train(job, checkpoints=Checkpoints(self.run_dir, key), log=log)
        except StoppedError:
            assert stop_at is not None
        return events

    def steps(self) -> list[str]:
        return sorted(path.name for path in (self.run_dir / FOLDER).glob("step-*"))


@pytest.fixture
def training(
    tiny_model_folder: Path, tiny_table: TokenTable, tiny_validation_table: TokenTable, tmp_path: Path
) -> Training:
    return Training(tiny_model_folder, tiny_table, tiny_validation_table, tmp_path)


def of(events: list[tuple[str, dict]], kind: str) -> list[dict]:
    return [fields for event, fields in events if event == kind]


def test_a_recipe_that_comes_back_goes_on_from_its_own_checkpoints(training: Training):
    straight = of(training("old"), "validation")
    for path in (training.run_dir / FOLDER).glob("step-*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    training("old", stop_at=4)
    others = training("new", stop_at=2, learning_rate=0.02)
    assert of(others, "other_checkpoints") == [{"steps": [2, 3]}]
    assert of(others, "resumed") == []
    again = training("old")
    assert [fields["step"] for fields in of(again, "resumed")] == [3]
    assert of(again, "validation") == straight[1:]


def test_settings_that_only_change_how_is_computed_are_told_and_no_reason_to_start_anew(training: Training):
    training("key", stop_at=4)
    events = training("key", gradient_checkpointing=True, keep_checkpoints=3)
    assert of(events, "computed_otherwise") == [{"settings": ["gradient_checkpointing"]}]
    assert [fields["step"] for fields in of(events, "resumed")] == [3]
    assert set(TrainingSection.model_fields) > COMPUTING_SETTINGS


def test_a_micro_batch_that_is_asked_for_holds_after_a_resumption_and_in_validation(training: Training):
    straight = of(training("key", micro_batch_tokens=30), "validation")
    for path in list((training.run_dir / FOLDER).glob("step-*")):
        path.rename(path.with_name(f"away-{path.name}"))
    training("key", micro_batch_tokens=30, stop_at=4)
    assert of(training("key", micro_batch_tokens=30), "validation") == straight[1:]


def test_of_steps_that_are_equal_by_the_metric_the_one_with_the_lower_loss_is_kept():
    settings = TrainingSection(best_metric="exact_match", validation_metrics=("exact_match",))
    progress = Progress()
    for step, loss in [(1, 3.0), (2, 2.0), (3, 2.5)]:
        progress = Progress(**{**vars(progress), "step": step})
        progress, _ = judge(progress, {"loss": loss, "exact_match": 0.0}, settings)
        progress = Progress(**{**vars(progress), "history": (*progress.history, (step, 0.0, loss))})
    assert progress.best_step == 2


def test_a_metric_that_was_not_measured_is_an_error_and_no_crash():
    settings = TrainingSection(objective={"kind": "classification"}, best_metric="macro_f1")
    with pytest.raises(UserError) as caught:
        judge(Progress(step=1), {"loss": 1.0}, settings)
    assert caught.value.code == "recipe-invalid"


def test_memory_that_runs_out_anywhere_in_a_training_is_said_in_words():
    with pytest.raises(UserError) as caught, memory_errors_said():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
    assert caught.value.code == "memory-full"
    with pytest.raises(RuntimeError, match="another"), memory_errors_said():
        raise RuntimeError("another")


def test_gradients_and_averages_that_are_still_to_come_are_counted(tiny_model):
    settings = TrainingSection()
    weights = make_master_weights(tiny_model, settings)
    trained = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert coming_bytes(weights, settings) == 12 * trained
