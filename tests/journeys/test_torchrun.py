"""`torchrun -m kivnun run`: one run folder, one report, and what happens when one of the processes does not go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from journey import (
    ADAPTER,
    PATIENCE_SECONDS,
    Ended,
    FinishedRun,
    children_of,
    clean_environment,
    finished_stages,
    leftovers,
    read_events,
    steps_done,
    wait_until,
)
from safetensors.torch import load_file

TORCHRUN = Path(sys.executable).with_name("torchrun")
FILLER = "filler"
TRAINING_ONLY = ("--set", "evaluation=null", "--set", "optimization=null")
LONG = ("--set", "training.max_steps=400", "--set", "training.validate_every_steps=1000")


def start_torchrun(*arguments: str | Path, work: Path) -> subprocess.Popen[str]:
    """Two processes of the command, still running."""
    return subprocess.Popen(
        [
            *("env", "--default-signal=INT", TORCHRUN, "--standalone", "--nproc-per-node", "2"),
            *("-m", "kivnun", "run", "recipe.yaml", *TRAINING_ONLY, *arguments),
        ],
        cwd=work,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def end_of(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, out, err)


def set_parallel(kind: str) -> tuple[str, str]:
    return ("--set", f"training.parallel={kind}")


def require_same_adapter(folder: Path, other: Path) -> None:
    one, two = load_file(folder / ADAPTER), load_file(other / ADAPTER)
    assert one.keys() == two.keys()
    for name, value in two.items():
        torch.testing.assert_close(one[name], value, atol=1e-4, rtol=1e-3)


def test_a_process_that_is_killed_ends_all_and_the_other_way_to_share_goes_on_to_the_same_adapter(
    finished_run: FinishedRun, work: Path
) -> None:
    folder = work / "runs" / "recipe"
    training = start_torchrun(*set_parallel("fsdp"), work=work)
    wait_until(lambda: steps_done(folder) >= 3, training)
    workers = children_of(training.pid)
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    ended = end_of(training)
    assert ended.status != 0
    assert ended.err.count("error[") <= 1
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>' not in ended.err
    assert finished_stages(folder) == {"dataset"}
    before = steps_done(folder)
    assert before < 12

    ended = end_of(start_torchrun(*set_parallel("ddp"), work=work))
    assert ended.status == 0, ended.err
    events = read_events(folder)
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    assert len(resumed) == 1
    assert before - 1 <= resumed[0] <= before
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps[before:] == list(range(resumed[0] + 1, 13))
    assert [event["event"] for event in events].count("run_finished") == 1
    assert ended.out.count("report: ") + ended.err.count("report: ") == 1
    assert leftovers(folder) == []
    require_same_adapter(folder, finished_run.folder)


def test_ctrl_c_saves_the_step_that_all_have_done(work: Path) -> None:
    folder = work / "runs" / "recipe"
    training = start_torchrun(*LONG, *set_parallel("fsdp"), work=work)
    wait_until(lambda: steps_done(folder) >= 3, training)
    training.send_signal(signal.SIGINT)
    ended = end_of(training)
    assert ended.status != 0
    assert ended.err.count("interrupted; the same command goes on from here") == 1
    assert "error[" not in ended.err
    last = steps_done(folder)
    assert 3 <= last < 400
    assert f"step-{last:06d}" in {path.name for path in (folder / "checkpoints").iterdir()}
    assert read_events(folder)[-1]["event"] == "run_interrupted"
    assert leftovers(folder) == []


def test_an_error_of_all_processes_is_shown_once(work: Path) -> None:
    ended = end_of(start_torchrun("--set", "method.target_modules=[q_prj]", work=work))
    assert ended.status != 0
    assert ended.err.count("error[target-modules]") == 1
    assert finished_stages(work / "runs" / "recipe") == set()


def test_a_full_disk_ends_all_processes_and_keeps_the_earlier_checkpoint(work: Path, checkpoints_disk: Path) -> None:
    folder = work / "runs" / "recipe"
    training = start_torchrun(*set_parallel("fsdp"), *LONG, work=work)
    wait_until(lambda: steps_done(folder) >= 3, training)
    fill(checkpoints_disk)
    ended = end_of(training)
    assert ended.status != 0
    assert ended.err.count("error[disk-full]: ") == 1
    assert "hint: free some space" in ended.err
    last = steps_done(folder)
    assert {path.name for path in checkpoints_disk.iterdir()} >= {FILLER, f"step-{last - 1:06d}"}
    assert leftovers(folder) == []


def fill(disk: Path) -> None:
    """Take all of the disk's space."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 2**12)
        except OSError:
            return


@pytest.fixture
def checkpoints_disk(work: Path) -> Iterator[Path]:
    """A disk in memory for the checkpoints alone; where it cannot be mounted the test is skipped, and says so."""
    folder = work / "runs" / "recipe" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / ".lock").touch()
    command = ["mount", "-t", "tmpfs", "-o", f"size={4 * 2**20}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
