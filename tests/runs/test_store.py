"""Run folders: one process at a time, found by name, never someone else's folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.runs import default_run_dir, find_run, open_run, read_events

HOLDER = (
    "import sys, time; from pathlib import Path; from kivnun.runs import open_run\n"
    "run = open_run(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)\n"
)


def test_a_run_is_created_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tone"
    for event in ("first", "second"):
        with open_run(folder) as run:
            assert run.folder == folder
            run.log(event, {"n": 1})
    assert [event["event"] for event in read_events(folder / "events.jsonl")] == ["first", "second"]


def test_a_run_is_open_once_even_in_one_process(tmp_path: Path) -> None:
    with open_run(tmp_path / "tone"):
        with pytest.raises(UserError) as caught:
            open_run(tmp_path / "tone")
        assert caught.value.code == "run-locked"
    open_run(tmp_path / "tone").close()


def test_an_error_inside_gives_the_run_free(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bug"), open_run(tmp_path / "tone"):
        raise ValueError("bug")
    open_run(tmp_path / "tone").close()


def test_another_process_is_kept_out_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "tone"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        (folder / ".model.partial").mkdir()
        with pytest.raises(UserError, match=f"pid {holder.pid}") as caught:
            open_run(folder)
        assert caught.value.code == "run-locked"
        assert (folder / ".model.partial").exists(), "the work of a living process must not be swept"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    open_run(folder).close()
    assert not (folder / ".model.partial").exists()


def test_a_child_that_a_run_forked_does_not_hold_its_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from kivnun.runs import open_run\n"
        "run = open_run(Path(sys.argv[1])); child = os.fork()\n"
        "if child == 0: signal.alarm(20); signal.pause()\n"
        "run.close(); open_run(Path(sys.argv[1])).close(); os.kill(child, signal.SIGKILL); os.waitpid(child, 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tone")], check=True, timeout=30)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".mine.partial").touch()
    with pytest.raises(UserError) as caught:
        open_run(tmp_path)
    assert caught.value.code == "run-folder-taken"
    assert [path.name for path in tmp_path.iterdir()] == [".mine.partial"]


def test_a_file_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a run folder"):
        open_run(tmp_path / "file")


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    assert (tmp_path / "events.jsonl").exists()


def test_a_recipe_runs_in_a_folder_of_its_name() -> None:
    assert default_run_dir(Path("recipes/tone.yaml")) == Path("runs/tone")


def test_a_run_is_found_by_name_or_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_run(Path("runs/tone")).close()
    open_run(Path("elsewhere/x")).close()
    assert find_run("tone") == Path("runs/tone")
    assert find_run("runs/tone") == Path("runs/tone")
    assert find_run("elsewhere/x") == Path("elsewhere/x")
    assert find_run(str(tmp_path / "runs" / "tone")) == tmp_path / "runs" / "tone"
    # A server's job, whose run lies in its folder.
    open_run(Path("jobs/ftjob-x/run")).close()
    assert find_run("jobs/ftjob-x") == Path("jobs/ftjob-x/run")


@pytest.mark.parametrize(
    ("text", "hint"), [("tome", "did you mean `tone`?"), ("zzz", "tone"), ("", "tone"), ("plain", "tone")]
)
def test_a_run_that_does_not_exist_is_refused_with_those_that_do(
    tmp_path: Path, monkeypatch, text: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").mkdir()
    open_run(Path("runs/tone")).close()
    with pytest.raises(UserError) as caught:
        find_run(text)
    assert caught.value.code == "run-missing"
    assert hint in caught.value.hint
