"""Files that trackers write: every step once, whatever was killed and resumed in between."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from told_run import ToldRun

from kivnun.errors import UserError
from kivnun.runs import read_events
from kivnun.tracking.points import read_point, read_training
from kivnun.tracking.table import COLUMNS

ATTEMPTS = {
    "undisturbed": [(0, 7)],
    "resumed from the last step": [(0, 4), (4, 7)],
    "killed behind its checkpoint": [(0, 5), (2, 7)],
    "killed before the first checkpoint": [(0, 3), (0, 7)],
    "killed again and again": [(0, 5), (4, 5), (2, 6), (6, 7)],
}


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads, in the order of its events."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {name: [(each.step, each.value) for each in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_tensorboard_reads_every_step_once(told_run: ToldRun, attempts: list[tuple[int, int]]) -> None:
    for start, stop in attempts:
        told_run.attempt(["tensorboard"], start, stop, is_killed=stop != 7)
    scalars = read_scalars(told_run.folder)
    assert scalars["train/loss"] == [(step, 2.0**-step) for step in range(1, 8)]
    assert scalars["train/tokens_per_second"] == [(step, 200.0) for step in range(1, 8)]
    assert scalars["validation/loss"] == [(step, 3 * 2.0**-step) for step in (2, 4, 6)]
    assert scalars["usage/memory_bytes"] == [(step, 2**30) for step in (3, 6)]
    assert {"train/learning_rate", "train/grad_norm", "validation/rouge_l"} <= scalars.keys()


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_resumed_table_is_that_of_the_undisturbed_run(
    told_runs: Callable[[str], ToldRun], attempts: list[tuple[int, int]]
) -> None:
    undisturbed, disturbed = told_runs("undisturbed"), told_runs("disturbed")
    undisturbed.attempt(["csv"], 0, 7)
    for start, stop in attempts:
        disturbed.attempt(["csv"], start, stop, is_killed=stop != 7)
    # The order of the columns that are not fixed is that in which their names came up first, which a kill may change.
    assert read_csv(disturbed.folder) == read_csv(undisturbed.folder)


def test_the_table_has_the_fixed_columns_first_and_a_row_for_each_step(told_run: ToldRun) -> None:
    told_run.attempt(["csv"], 0, 4)
    rows = read_csv(told_run.folder)
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["validation/loss"] for row in rows] == ["", "0.75", "", "0.1875"]
    assert [float(row["train/loss"]) for row in rows] == [0.5, 0.25, 0.125, 0.0625]
    assert rows[0]["train/num_tokens"] == "100"


def test_a_row_can_be_read_before_the_next_step(told_run: ToldRun) -> None:
    told_run.attempt(["csv", "tensorboard"], 0, 5, is_killed=True)
    assert [row["step"] for row in read_csv(told_run.folder)] == ["1", "2", "3", "4", "5"]
    assert [step for step, _ in read_scalars(told_run.folder)["train/loss"]] == [1, 2, 3, 4, 5]


def test_another_training_in_the_same_folder_begins_anew(told_run: ToldRun) -> None:
    told_run.attempt(["csv", "tensorboard"], 0, 6)
    told_run.attempt(["csv", "tensorboard"], 0, 2, key="another")
    assert [row["step"] for row in read_csv(told_run.folder)] == ["1", "2"]
    assert [step for step, _ in read_scalars(told_run.folder)["train/loss"]] == [1, 2]


def test_a_tracker_that_is_named_only_when_a_run_goes_on_still_has_every_step(told_run: ToldRun) -> None:
    told_run.attempt([], 0, 4, is_killed=True)
    told_run.attempt(["csv", "tensorboard"], 4, 6)
    assert [row["step"] for row in read_csv(told_run.folder)] == ["1", "2", "3", "4", "5", "6"]
    assert [step for step, _ in read_scalars(told_run.folder)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_torn_end_of_a_tensorboard_file_loses_no_step(told_run: ToldRun) -> None:
    told_run.attempt(["tensorboard"], 0, 4, is_killed=True)
    (path,) = (told_run.folder / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    told_run.attempt(["tensorboard"], 4, 6)
    assert [step for step, _ in read_scalars(told_run.folder)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_fails_is_said_once_and_is_off_while_the_others_go_on(told_run: ToldRun) -> None:
    (told_run.folder / "tensorboard").write_text("a file where the folder should be", "utf-8")
    told_run.attempt(["tensorboard", "csv"], 0, 5)
    failures = [fields for event, fields in told_run.events if event == "tracker_failed"]
    assert [failure["tracker"] for failure in failures] == ["tensorboard"]
    assert "FileExistsError" in str(failures[0]["problem"])
    assert len(read_csv(told_run.folder)) == 5
    assert "tracker_failed" in [event["event"] for event in read_events(told_run.folder / "events.jsonl")]


def test_a_tracker_that_fails_later_is_off_from_then_on(told_run: ToldRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kivnun.tracking.table._line", fail)
    told_run.attempt(["csv", "tensorboard"], 0, 5)
    assert [fields["tracker"] for event, fields in told_run.events if event == "tracker_failed"] == ["csv"]
    assert len(read_scalars(told_run.folder)["train/loss"]) == 5


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_said_before_anything_is_done(
    told_run: ToldRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=name) as caught:
        told_run.attempt([name], 0, 1)
    assert caught.value.code == "dependency-missing"
    assert f"pip install 'kivnun[{name}]'" in caught.value.hint
    assert told_run.events == []


def test_numbers_that_are_not_finite_are_kept_and_words_are_not_numbers() -> None:
    fields = {"step": 3, "loss": "nan", "reward": float("inf"), "words": "rising", "best": True, "num_steps": 9}
    point = read_point("validation", fields)
    assert point is not None
    assert str(dict(point.values)) == "{'validation/loss': nan, 'validation/reward': inf}"
    assert read_point("checkpoint", {"step": 3, "best": True}) is None


def test_what_an_attempt_does_again_counts_once(told_run: ToldRun) -> None:
    told_run.attempt([], 0, 5)
    told_run.attempt([], 2, 4)
    training = read_training(read_events(told_run.folder / "events.jsonl"), "k", 3)
    losses = [point.step for point in training.kept if "train/loss" in point.values]
    assert (losses, training.reached) == ([1, 2, 3], 5)


def test_time_of_a_point_is_when_it_was_logged_and_not_when_it_is_read(told_run: ToldRun) -> None:
    told_run.attempt([], 0, 1)
    event = read_events(told_run.folder / "events.jsonl")[1]
    point = read_point("step", {**event, "time": "2026-01-02T03:04:05.000+00:00"})
    assert point is not None
    assert point.seconds == 1767323045.0


def test_only_one_tensorboard_file_is_left_so_that_no_reader_sees_a_step_twice(told_run: ToldRun) -> None:
    for start, stop in ((0, 5), (2, 6), (6, 7)):
        told_run.attempt(["tensorboard"], start, stop)
    assert [path.name for path in (told_run.folder / "tensorboard").iterdir()] == ["events.out.tfevents.000003.kivnun"]
