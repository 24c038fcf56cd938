"""Stages: whole when they appear, skipped when nothing changed, never trusted when damaged."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.errors import UserError
from kivnun.runs import (
    content_hash,
    hash_file,
    open_run,
    read_manifest,
    stage_done,
    stage_key,
    verify_artifact,
    write_stage,
)


def make(
    run_dir: Path, name: str = "dataset", *, key: str = "k1", text: str = "rows", parents: tuple[str, ...] = ()
) -> Path:
    with write_stage(run_dir, name, kind=name, key=key, inputs={"seed": 1}, parents=parents) as folder:
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "sub" / "b.txt").write_text("ב")
    return run_dir / name


def fail_in_stage(run_dir: Path, error: BaseException) -> None:
    with write_stage(run_dir, "dataset", kind="dataset", key="k2") as folder:
        (folder / "a.txt").write_text("new")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_appears_with_everything_or_not_at_all(tmp_path: Path) -> None:
    with write_stage(tmp_path, "dataset", kind="dataset", key="k") as folder:
        (folder / "a").write_text("x")
        assert not (tmp_path / "dataset").exists()
        assert not stage_done(tmp_path, "dataset", "k")
    assert names(tmp_path) == ["dataset"]
    assert names(tmp_path / "dataset") == ["a", "artifact.json"]
    assert stage_done(tmp_path, "dataset", "k")


def test_the_manifest_tells_what_the_stage_is(tmp_path: Path) -> None:
    folder = make(tmp_path)
    child = make(tmp_path, "model", parents=("dataset",))
    fields = json.loads((child / "artifact.json").read_text())
    assert fields["format"] == 1
    assert fields["kind"] == "model"
    assert fields["key"] == "k1"
    assert fields["inputs"] == {"seed": 1}
    assert fields["parents"] == {"dataset": content_hash(folder)}
    assert fields["files"] == {
        "a.txt": {"sha256": hash_file(child / "a.txt"), "size_bytes": 4},
        "sub/b.txt": {"sha256": hash_file(child / "sub" / "b.txt"), "size_bytes": 2},
    }
    assert {"torch", "jinja2", "onnx"} <= fields["versions"].keys()
    assert fields["created_at"].endswith("+00:00")


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_a_stage_that_fails_leaves_nothing_and_keeps_the_earlier_one(tmp_path: Path, error: BaseException) -> None:
    make(tmp_path, text="old")
    with pytest.raises(type(error)):
        fail_in_stage(tmp_path, error)
    assert names(tmp_path) == ["dataset"]
    assert (tmp_path / "dataset" / "a.txt").read_text() == "old"
    assert stage_done(tmp_path, "dataset", "k1")


def test_a_stage_is_replaced_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path, text="old")
    with write_stage(tmp_path, "dataset", kind="dataset", key="k2") as folder:
        (folder / "only.txt").write_text("new")
    assert names(tmp_path) == ["dataset"]
    assert names(tmp_path / "dataset") == ["artifact.json", "only.txt"]
    assert stage_done(tmp_path, "dataset", "k2")
    assert not stage_done(tmp_path, "dataset", "k1")


def test_what_a_killed_write_left_does_not_leak_into_the_next(tmp_path: Path) -> None:
    (tmp_path / ".dataset.partial").mkdir()
    (tmp_path / ".dataset.partial" / "stale").touch()
    make(tmp_path)
    assert names(tmp_path / "dataset") == ["a.txt", "artifact.json", "sub"]


def test_a_stage_is_not_done_without_its_files_its_manifest_or_its_parents(tmp_path: Path) -> None:
    assert not stage_done(tmp_path, "dataset", "k1")
    folder = make(tmp_path)
    make(tmp_path, "model", parents=("dataset",))
    assert stage_done(tmp_path, "model", "k1")
    make(tmp_path, text="other rows")
    assert not stage_done(tmp_path, "model", "k1"), "the parent's content changed"
    (folder / "a.txt").write_text("shorter")
    assert not stage_done(tmp_path, "dataset", "k1")
    (folder / "a.txt").unlink()
    assert not stage_done(tmp_path, "dataset", "k1")
    make(tmp_path)
    (folder / "artifact.json").write_text("{")
    assert not stage_done(tmp_path, "dataset", "k1")


@pytest.mark.parametrize(("size", "is_done"), [(4, False), (2**20, False), (2**20 + 1, True)])
def test_a_small_file_that_kept_its_size_but_not_its_content_is_noticed(
    tmp_path: Path, size: int, is_done: bool
) -> None:
    folder = make(tmp_path, text="x" * size)
    (folder / "a.txt").write_text("y" * size)
    assert stage_done(tmp_path, "dataset", "k1") == is_done


def test_a_stage_needs_its_parents_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished stage"):
        make(tmp_path, parents=("nothing",))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (lambda folder: (folder / "a.txt").write_text("rowz"), "a.txt: differs"),
        (lambda folder: (folder / "a.txt").write_text("row"), "a.txt: differs"),
        (lambda folder: (folder / "sub" / "b.txt").unlink(), "sub/b.txt: is missing"),
        (lambda folder: (folder / "c.txt").touch(), "c.txt: does not belong"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage, detail: str) -> None:
    folder = make(tmp_path)
    assert verify_artifact(folder) == read_manifest(folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        verify_artifact(folder)
    assert caught.value.code == "artifact-damaged"
    assert [line.startswith(f"{folder}/{detail}") for line in caught.value.details] == [True]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "\x00"])
def test_a_manifest_that_cannot_be_read_is_damage(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path)
    (folder / "artifact.json").write_text(text)
    with pytest.raises(UserError) as caught:
        verify_artifact(folder)
    assert caught.value.code == "artifact-damaged"


def test_a_moved_run_is_still_whole(tmp_path: Path) -> None:
    make(tmp_path / "here")
    make(tmp_path / "here", "model", parents=("dataset",))
    (tmp_path / "here").rename(tmp_path / "there")
    verify_artifact(tmp_path / "there" / "model")
    assert stage_done(tmp_path / "there", "model", "k1")


def test_a_link_is_refused_since_the_folder_could_not_be_moved(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="link"),
        write_stage(tmp_path, "dataset", kind="dataset", key="k") as folder,
    ):
        (folder / "link").symlink_to(__file__)
    assert names(tmp_path) == []


def test_the_content_hash_sees_names_and_contents_alone(tmp_path: Path) -> None:
    first = make(tmp_path / "1", key="x")
    assert content_hash(make(tmp_path / "2", key="y")) == content_hash(first)
    assert content_hash(make(tmp_path / "3", text="rowz")) != content_hash(first)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_the_key_does_not_depend_on_order(inputs: dict[str, object]) -> None:
    assert stage_key(inputs) == stage_key(dict(reversed(inputs.items())))


@given(st.dictionaries(st.text(), json_values, max_size=3), st.text(), json_values, json_values)
def test_the_key_depends_on_every_value(inputs: dict[str, object], name: str, left: object, right: object) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (stage_key({**inputs, name: left}) == stage_key({**inputs, name: right})) is same


def test_a_value_without_one_meaning_has_no_key() -> None:
    with pytest.raises(TypeError):
        stage_key({"path": Path("a")})


def test_opening_a_run_sweeps_what_killed_runs_left(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    open_run(run_dir).close()
    make(run_dir)
    (run_dir / ".model.partial").mkdir()
    (run_dir / ".model.partial" / "weights").touch()
    (run_dir / ".run.lock.json.0123abcd.partial").touch()
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints" / ".7.partial").mkdir()
    (run_dir / "checkpoints" / "6").touch()
    open_run(run_dir).close()
    assert names(run_dir) == [".lock", "checkpoints", "dataset", "events.jsonl"]
    assert names(run_dir / "checkpoints") == ["6"]
    verify_artifact(run_dir / "dataset")


@pytest.mark.parametrize("renamed", [True, False])
def test_a_replacement_that_was_cut_short_keeps_one_whole_stage(tmp_path: Path, renamed: bool) -> None:
    run_dir = tmp_path / "run"
    open_run(run_dir).close()
    new = make(tmp_path / "other", text="new", key="k2")
    make(run_dir, text="old").rename(run_dir / ".dataset.replaced")
    new.rename(run_dir / ("dataset" if renamed else ".dataset.partial"))
    open_run(run_dir).close()
    assert names(run_dir) == [".lock", "dataset", "events.jsonl"]
    verify_artifact(run_dir / "dataset")
    assert (run_dir / "dataset" / "a.txt").read_text() == ("new" if renamed else "old")


def test_every_file_reaches_the_disk_before_the_stage_gets_its_name(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from kivnun.runs import write_stage
calls, sync, rename = [], os.fsync, Path.rename
def spy_sync(fd):
    calls.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), sys.argv[1]))
    sync(fd)
def spy_rename(self, to):
    calls.append("rename")
    return rename(self, to)
os.fsync, Path.rename = spy_sync, spy_rename
with write_stage(Path(sys.argv[1]), "dataset", kind="dataset", key="k") as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("a")
print(*calls)
"""
    calls = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True).split()
    before, after = calls[: calls.index("rename")], calls[calls.index("rename") + 1 :]
    partial = ".dataset.partial"
    assert {f"{partial}/sub/a.txt", f"{partial}/artifact.json", f"{partial}/sub", partial} == set(before)
    assert after == ["."]


def test_a_write_killed_at_any_call_leaves_the_old_stage_or_the_new(tmp_path: Path) -> None:
    """Kill -9 at the n-th system-level step of the sealing, for every n until it survives."""
    code = """
import os, signal, sys
from pathlib import Path
from kivnun.runs import open_run, write_stage
run_dir, fatal = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def audit(event, arguments):
    global count
    is_open = event == "open" and run_dir.name in str(arguments[0])
    if is_open or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
with open_run(run_dir):
    sys.addaudithook(audit)
    with write_stage(run_dir, "dataset", kind="dataset", key="new") as folder:
        (folder / "a.txt").write_text("new")
        (folder / "b.txt").write_text("new")
"""
    seen: set[str] = set()
    for fatal in range(1, 100):
        run_dir = tmp_path / f"run{fatal}"
        open_run(run_dir).close()
        make(run_dir, text="old", key="old")
        status = subprocess.run([sys.executable, "-c", code, str(run_dir), str(fatal)], check=False).returncode
        assert status in (0, -signal.SIGKILL)
        open_run(run_dir).close()
        manifest = verify_artifact(run_dir / "dataset")
        assert manifest.key == (run_dir / "dataset" / "a.txt").read_text()
        assert names(run_dir) == [".lock", "dataset", "events.jsonl"]
        seen.add(manifest.key)
        if status == 0:
            break
    assert seen == {"old", "new"}
    assert fatal > 5, "the write must have been killed at several steps"
