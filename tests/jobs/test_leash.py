"""Processes of jobs: none outlives its worker, and what is left of them is found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from job_place import wait_for

from kivnun.jobs import leash

SLEEP = "import time; time.sleep(60)"
SPAWN = (
    f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True); {SLEEP}"
)
PARENT = """
import sys
from pathlib import Path
from kivnun.jobs import leash
print(leash.start(sys.argv[2:], folder=Path("."), log=Path(sys.argv[1]), mark="mark-of-test").process.pid, flush=True)
import time; time.sleep(60)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def start(log: Path, code: str, mark: str = "mark") -> leash.Leashed:
    return leash.start(("-c", code), folder=log.parent, log=log, mark=f"{mark}-{os.getpid()}")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_it_prints_and_how_it_ends_are_kept(log: Path) -> None:
    process = start(log, "print('said'); raise SystemExit(7)")
    assert process.process.wait(20) == 7
    assert process.poll() == 7
    assert process.printed() == "said\n"


def test_what_an_earlier_process_printed_is_not_taken_for_its_own(log: Path) -> None:
    start(log, "print('before')").process.wait(20)
    process = start(log, "print('now')")
    process.process.wait(20)
    assert process.printed() == "now\n"
    assert log.read_text() == "before\nnow\n"


def test_it_is_nice_to_the_server_and_the_first_to_go_where_memory_runs_out(log: Path) -> None:
    start(log, "import os; print(os.nice(0), open('/proc/self/oom_score_adj').read())").process.wait(20)
    assert log.read_text().split() == [str(os.nice(0) + leash.NICENESS), "900"]


def test_it_dies_with_its_worker_even_by_kill_9(log: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(log), "-c", f"print('up', flush=True); {SLEEP}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        pid = int(worker.stdout.readline())  # type: ignore[union-attr]
        wait_for(lambda: log.exists() and "up" in log.read_text())
        worker.kill()
    wait_for(lambda: not is_alive(pid), seconds=5)


def test_what_a_killed_process_left_is_found_by_its_mark_and_ended(log: Path) -> None:
    process = start(log, SPAWN, "left")
    wait_for(lambda: log.exists() and log.read_text().strip())
    child = int(log.read_text())
    process.process.kill()
    process.process.wait()
    assert is_alive(child)
    assert leash.kill_marked(f"left-{os.getpid()}") == 1
    assert not is_alive(child)


def test_only_what_has_the_very_mark_is_ended(log: Path) -> None:
    process = start(log, SLEEP, "one")
    time.sleep(0.2)
    assert leash.kill_marked(f"one-{os.getpid()}x") == 0
    assert leash.kill_marked("one") == 0
    assert process.poll() is None
    process.kill()


def test_ending_it_leaves_what_another_worker_started_for_the_same_job(log: Path) -> None:
    lost, other = start(log, SLEEP, "both"), start(log, SLEEP, "both")
    lost.kill()
    assert other.poll() is None
    other.kill()


def test_killing_it_ends_its_children_too(log: Path) -> None:
    process = start(log, SPAWN, "group")
    wait_for(lambda: log.exists() and log.read_text().strip())
    process.kill()
    assert process.poll() == -signal.SIGKILL
    assert not is_alive(int(log.read_text()))


def test_it_can_be_interrupted_even_where_its_worker_ignores_that(log: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = f"try:\n print('up', flush=True)\n {SLEEP}\nexcept KeyboardInterrupt:\n print('saved')"
        process = start(log, code)
        wait_for(lambda: log.exists() and "up" in log.read_text())
        process.interrupt()
        assert process.process.wait(20) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert log.read_text() == "up\nsaved\n"


def test_its_memory_is_that_of_its_children_too(log: Path) -> None:
    process = start(log, f"kept = bytearray(100_000_000); print('up', flush=True); {SLEEP}")
    wait_for(lambda: log.exists() and "up" in log.read_text())
    assert 100_000_000 < process.memory_bytes() < 200_000_000
    process.kill()
    assert process.memory_bytes() == 0
