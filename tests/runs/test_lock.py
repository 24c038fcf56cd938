"""The lock: what a recipe resolved to is read back as it was written."""

import platform
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.runs import ModelLock, RunLock, library_versions, read_lock, write_lock

LOCK = RunLock(
    recipe={"base_model": "bundled", "data": {"train": ["a.jsonl"]}},
    base_model=ModelLock("bundled", None, "ab12"),
    data={"נתונים.jsonl": "cd34"},
    seed=7,
    device="cpu",
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_lock(tmp_path, LOCK)
    assert read_lock(tmp_path) == LOCK
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock.json"]


def test_a_lock_knows_the_machine() -> None:
    assert LOCK.python == platform.python_version()
    assert LOCK.versions == library_versions()
    assert "torch" in LOCK.versions


def test_what_is_not_installed_has_no_version() -> None:
    assert set(library_versions(("pytest", "no-such-library"))) == {"pytest"}


@pytest.mark.parametrize(
    ("text", "code"), [(None, "run-missing"), ("{", "artifact-damaged"), ("{}", "artifact-damaged")]
)
def test_a_lock_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "run.lock.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_lock(tmp_path)
    assert caught.value.code == code
