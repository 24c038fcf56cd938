"""One finished run for all journeys, and the command inside this process for the many short ones."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import EVALUATION, OPTIMIZATION, Ended, FinishedRun, kivnun, write_workplace

from kivnun.cli.app import main
from kivnun.models.new import make_model
from kivnun.models.save import save_model
from kivnun.models.types import Tokenizer
from kivnun.recipe.schema import NewModel


@pytest.fixture(scope="session")
def tiny_base(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose heads are wide enough for ONNX Runtime's attention; never written to by a test."""
    shape = NewModel(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_model(make_model(shape, tiny_tokenizer, seed=1), tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Every stage, made by the installed command; never written to by a test."""
    work = tmp_path_factory.mktemp("journey")
    write_workplace(work, tiny_base, sections=EVALUATION + OPTIMIZATION)
    ended = kivnun("run", "recipe.yaml", "--json", work=work)
    assert ended.status == 0, ended.err
    return FinishedRun(work, work / "runs" / "recipe", ended)


@pytest.fixture
def work(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workplace, whose recipe has all stages; it is the current folder."""
    write_workplace(tmp_path, tiny_base, sections=EVALUATION + OPTIMIZATION)
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
