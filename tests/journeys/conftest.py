"""One finished run for all journeys, and the command inside this process for the many short ones."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import EVALUATION, OPTIMIZATION, Ended, FinishedRun, kivnun, write_workplace

from kivnun.cli.app import main


@pytest.fixture(scope="session")
def finished_run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Every stage, made by the installed command; never written to by a test."""
    work = tmp_path_factory.mktemp("journey")
    write_workplace(work, tiny_model_folder, sections=EVALUATION + OPTIMIZATION)
    ended = kivnun("run", "recipe.yaml", "--json", work=work)
    assert ended.status == 0, ended.err
    return FinishedRun(work, work / "runs" / "recipe", ended)


@pytest.fixture
def work(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workplace, whose recipe has all stages; it is the current folder."""
    write_workplace(tmp_path, tiny_model_folder, sections=EVALUATION + OPTIMIZATION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kivnun_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The entry point of the installed command in this process: the same words without seconds of imports."""

    def call(*arguments: str | Path, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["kivnun", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(status, int), status
        return Ended(status, captured.out, captured.err)

    return call
