"""Writing: the old content or the new, never a part, even on a full disk."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.runs import EventLog, hash_file, open_run, read_events, write_atomic, write_stage
from kivnun.runs.atomic import disk_full_as_user_error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("content", "data"), [("שלום\n", "שלום\n".encode()), (b"\x00\xff\r\n", b"\x00\xff\r\n"), ("", b"")]
)
def test_what_is_written_is_what_is_read(tmp_path: Path, content: str | bytes, data: bytes) -> None:
    write_atomic(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, "long old content")
    reader = path.open()
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert reader.read() == "long old content", "a reader that has the file open must not see it change"
    reader.close()


def test_a_write_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").touch()
    with pytest.raises(OSError, match="irectory"):
        write_atomic(tmp_path / "folder", "cannot replace a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_end(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from kivnun.runs import write_atomic\n"
        "calls = []\n"
        "sync, replace = os.fsync, Path.replace\n"
        "def spy_sync(fd): calls.append(('sync', os.readlink(f'/proc/self/fd/{fd}'))); sync(fd)\n"
        "def spy_replace(self, to): calls.append(('rename', str(self), str(to))); return replace(self, to)\n"
        "os.fsync, Path.replace = spy_sync, spy_replace\n"
        "write_atomic(Path(sys.argv[1]), 'x'); print(*[call[0] for call in calls]); print(calls[0][1] == calls[1][1]); "
        "print(calls[2][1])\n"
    )
    path = tmp_path / "a"
    answer = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True).splitlines()
    assert answer == ["sync rename sync", "True", str(tmp_path)]


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    assert hash_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
    ],
)
def test_a_full_disk_is_known_however_a_library_reports_it(error: Exception) -> None:
    with pytest.raises(UserError) as caught, disk_full_as_user_error(Path("runs/tone/model")):
        raise error
    assert caught.value.code == "disk-full"
    assert "runs/tone/model" in caught.value.problem


def test_a_full_disk_is_known_when_another_error_hides_it() -> None:
    hidden = RuntimeError("PytorchStreamWriter failed writing file")
    hidden.__cause__ = OSError(errno.ENOSPC, "full")
    with pytest.raises(UserError), disk_full_as_user_error(Path("a")):
        raise hidden


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("x"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, disk_full_as_user_error(Path("a")):
        raise error
    assert caught.value is error


def test_a_real_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    write_atomic(small_disk / "a", "old")
    with pytest.raises(UserError, match="disk is full") as caught:
        write_atomic(small_disk / "a", b"x" * 10**6)
    assert caught.value.code == "disk-full"
    assert (small_disk / "a").read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["a"]


def test_a_real_full_disk_keeps_the_old_stage(small_disk: Path) -> None:
    def write(size: int) -> None:
        with write_stage(small_disk, "model", kind="model", key=str(size)) as folder:
            (folder / "weights").write_bytes(b"x" * size)

    write(1000)
    with pytest.raises(UserError, match="disk is full"):
        write(10**6)
    assert (small_disk / "model" / "weights").stat().st_size == 1000
    assert [path.name for path in small_disk.iterdir()] == ["model"]


def test_a_real_full_disk_tears_no_event(small_disk: Path) -> None:
    with EventLog(small_disk / "events.jsonl") as log:
        log.append("step", {"n": 1})
        with pytest.raises(UserError, match="disk is full"):
            log.append("step", {"text": "x" * 10**6})
        log.append("step", {"n": 2})
    assert [event.get("n") for event in read_events(small_disk / "events.jsonl")] == [1, 2]


def test_a_run_on_a_full_disk_is_refused_and_given_free(small_disk: Path) -> None:
    open_run(small_disk / "run").close()
    (small_disk / "ballast").write_bytes(b"x" * (256 * 1024 - os.statvfs(small_disk).f_bsize * 2))
    with open_run(small_disk / "run") as run, pytest.raises(UserError, match="disk is full"):
        run.log("start", {"text": "x" * 10**5})
    (small_disk / "ballast").unlink()
    open_run(small_disk / "run").close()
