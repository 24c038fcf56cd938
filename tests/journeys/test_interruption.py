"""Runs that are killed or interrupted at any moment: the same command goes on, to the same weights bit by bit."""

import signal
from collections.abc import Callable
from pathlib import Path

from journey import (
    ADAPTER,
    Ended,
    FinishedRun,
    children_of,
    finished_stages,
    hash_of,
    is_alive,
    leftovers,
    read_events,
    stages,
    start_kivnun,
    steps_done,
    wait_until,
)

Command = Callable[..., Ended]
LONG = ("--set", "training.max_steps=60", "--set", "training.save_every_steps=1000")
TRAINING_ONLY = ("--set", "evaluation=null", "--set", "optimization=null")


def test_a_run_killed_in_training_and_again_in_the_export_ends_with_the_weights_of_an_undisturbed_one(
    finished_run: FinishedRun, work: Path, kivnun_here: Command
) -> None:
    folder = work / "runs" / "recipe"
    training = start_kivnun("run", "recipe.yaml", work=work)
    wait_until(lambda: steps_done(folder) >= 3, training)
    training.kill()
    training.communicate()
    assert steps_done(folder) < 12
    assert finished_stages(folder) == {"dataset"}

    exporting = start_kivnun("run", "recipe.yaml", work=work)
    wait_until(lambda: "optimized" in stages(folder, "stage_started"), exporting)
    wait_until(lambda: bool(children_of(exporting.pid)), exporting)
    workers = children_of(exporting.pid)
    exporting.kill()
    exporting.communicate()
    assert "resumed" in [event["event"] for event in read_events(folder)]
    wait_until(lambda: not any(map(is_alive, workers)))
    assert finished_stages(folder) == {"dataset", "model", "evaluation"}

    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert "[model] unchanged, not repeated" in ended.err
    assert leftovers(folder) == []
    assert hash_of(folder / ADAPTER) == hash_of(finished_run.folder / ADAPTER)
    merged = Path("optimized") / "merged" / "model.safetensors"
    assert hash_of(folder / merged) == hash_of(finished_run.folder / merged)


def test_ctrl_c_saves_the_last_whole_step_and_the_same_command_goes_on_from_there(
    work: Path, kivnun_here: Command
) -> None:
    options = ("run", "recipe.yaml", *LONG, *TRAINING_ONLY, "--set", "training.validate_every_steps=1000")
    folder = work / "runs" / "recipe"
    training = start_kivnun(*options, work=work)
    wait_until(lambda: steps_done(folder) >= 3, training)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 130, err
    assert "interrupted" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    last = steps_done(folder)
    assert last < 60
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{last:06d}"]
    assert leftovers(folder) == []

    again = kivnun_here(*options)
    assert again.status == 0, again.err
    assert f"going on after step {last}" in again.err
    assert kivnun_here(*options, "--run-dir", "undisturbed").status == 0
    assert hash_of(folder / ADAPTER) == hash_of(work / "undisturbed" / ADAPTER)


def test_ctrl_c_in_the_export_leaves_no_worker_and_no_half_export(work: Path) -> None:
    folder = work / "runs" / "recipe"
    options = ("run", "recipe.yaml", "--set", "training.max_steps=1", "--set", "evaluation=null")
    exporting = start_kivnun(*options, work=work)
    wait_until(lambda: "optimized" in stages(folder, "stage_started"), exporting)
    wait_until(lambda: bool(children_of(exporting.pid)), exporting)
    workers = children_of(exporting.pid)
    exporting.send_signal(signal.SIGINT)
    _, err = exporting.communicate(timeout=120)
    assert exporting.returncode == 130, err
    assert "interrupted" in err
    assert not any(map(is_alive, workers))
    assert leftovers(folder) == []
    assert finished_stages(folder) == {"dataset", "model"}
