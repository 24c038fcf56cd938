"""A disk that fills up: an error that says so, nothing half-written, and work that goes on once there is room."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journey import ADAPTER, Ended, FinishedRun, finished_stages, hash_of, leftovers

Command = Callable[..., Ended]
DISK_BYTES = 64 * 2**20
FILLER = "filler"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own in memory; where it cannot be mounted the test is skipped, and says so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> None:
    """Take the disk's space until so much is left."""
    block = 2**12
    with (disk / FILLER).open("wb", buffering=0) as file:
        while (room := os.statvfs(disk).f_bavail * block - leave_bytes) >= block:
            file.write(b"x" * min(room // block * block, 2**20))


def size_of(folder: Path) -> int:
    """Bytes on the disk, in its blocks."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def require_disk_full(ended: Ended, folder: Path) -> None:
    assert ended.status == 2, ended.err
    assert "error[disk-full]: " in ended.err
    assert str(folder) in ended.err
    assert "hint: free some space" in ended.err
    assert "Traceback" not in ended.err
    assert leftovers(folder) == []


def test_a_full_disk_at_a_checkpoint_keeps_the_earlier_ones_and_work_goes_on_when_there_is_room(
    finished_run: FinishedRun, work: Path, small_disk: Path, kivnun_here: Command
) -> None:
    recipe = (work / "recipe.yaml").read_text("utf-8").partition("evaluation")[0]
    (work / "recipe.yaml").write_text(recipe, "utf-8")
    folder = small_disk / "run"
    checkpoint = size_of(finished_run.folder / "checkpoints") // 2
    # Room for what comes first and for one checkpoint and a half.
    fill(small_disk, leave_bytes=size_of(finished_run.folder / "dataset") + 3 * checkpoint // 2 + 2**14)
    ended = kivnun_here("run", "recipe.yaml", "--run-dir", folder)
    require_disk_full(ended, folder)
    assert finished_stages(folder) == {"dataset"}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    (small_disk / FILLER).unlink()
    again = kivnun_here("run", "recipe.yaml", "--run-dir", folder)
    assert again.status == 0, again.err
    assert "going on after step 1" in again.err
    assert hash_of(folder / ADAPTER) == hash_of(finished_run.folder / ADAPTER)


@pytest.mark.parametrize("part", ["merged", "graph"])
def test_a_full_disk_in_the_export_leaves_no_part_of_it_and_work_goes_on_when_there_is_room(
    part: str, finished_run: FinishedRun, work: Path, small_disk: Path, kivnun_here: Command
) -> None:
    folder = small_disk / "run"
    shutil.copytree(finished_run.folder, folder, ignore=shutil.ignore_patterns("optimized"))
    merged = size_of(finished_run.folder / "optimized" / "merged")
    fill(small_disk, leave_bytes=merged // 2 if part == "merged" else merged * 3 // 2)
    options = ("run", "recipe.yaml", "--run-dir", folder, "--set", "optimization.precision=fp32")
    ended = kivnun_here(*options)
    require_disk_full(ended, folder)
    assert finished_stages(folder) == {"dataset", "model", "evaluation"}
    if part == "graph":
        (small_disk / FILLER).unlink()
        again = kivnun_here(*options)
        assert again.status == 0, again.err
        assert "[model] unchanged, not repeated" in again.err
        assert (folder / "optimized" / "onnx-fp32" / "model.onnx").is_file()
