"""How much is computed at once stays as it was first measured, and saving takes its share of the time and no more."""

import time
from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenTable, make_table
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.training import TrainingSection
from kivnun.training.optimizer import make_master_weights
from kivnun.training.room import ROOM_NAME, keep_room, read_room
from kivnun.training.saving_pace import SAVE_TIME_SHARE, SavingPace
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation


def bounds(base: Path, rows: TokenTable, run_dir: Path, key: str) -> list[object]:
    """How many tokens each step of a training computes at once at most."""
    settings = TrainingSection(batch_size=4, max_steps=2, precision="fp32")
    model = load_model(base, dtype=torch.float32)
    use_packed_attention(model)
    job = Job(model, make_master_weights(model, settings), rows, Validation(make_table([])), settings)
    told: list[object] = []
    train(
        job,
        checkpoints=Checkpoints(run_dir, key),
        log=lambda event, fields: told.append(fields["micro_batch_tokens"]) if event == "step" else None,
    )
    return told


def test_a_training_that_begins_anew_cuts_its_batches_as_it_did_at_first(
    tiny_model_folder: Path, tiny_table: TokenTable, tmp_path: Path
) -> None:
    """Killed before its first checkpoint, while much less memory was free than is now."""
    keep_room(tmp_path, "key", 30)
    assert bounds(tiny_model_folder, tiny_table, tmp_path, "key") == [30, 30]
    assert bounds(tiny_model_folder, tiny_table, tmp_path, "another") == [None, None]
    assert (read_room(tmp_path, "another"), read_room(tmp_path, "key")) == ((None,), None)


def test_what_was_measured_and_cannot_be_read_is_measured_again(tmp_path: Path) -> None:
    assert read_room(tmp_path, "key") is None
    keep_room(tmp_path, "key", None)
    assert read_room(tmp_path, "key") == (None,)
    (tmp_path / ROOM_NAME).write_text("")
    assert read_room(tmp_path, "key") is None


def test_a_checkpoint_is_due_after_the_steps_or_after_the_seconds() -> None:
    pace = SavingPace(TrainingSection(save_every_steps=3, save_every_seconds=1e-9))
    assert [step for step in range(1, 10) if pace.is_due(step)] == [3, 6, 9]
    assert SavingPace(TrainingSection(save_every_seconds=1e-9)).is_due(1)
    assert not SavingPace(TrainingSection()).is_due(1)


@pytest.mark.parametrize("seconds", [1e-9, 0.1])
def test_the_next_checkpoint_waits_longer_where_saving_takes_long(seconds: float) -> None:
    pace = SavingPace(TrainingSection(save_every_seconds=seconds))
    with pace.measured():
        time.sleep(0.02)
    began = time.monotonic()
    while not pace.is_due(1):
        time.sleep(0.005)
    assert time.monotonic() - began > 0.9 * max(seconds, 0.02 / SAVE_TIME_SHARE)
