"""The command of seed 000: two tuned adapters become one exported model, and each request names the one it wants."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import ADAPTER, Ended, FinishedRun

PHRASE = "The door was locked and nobody answered"


@pytest.fixture(scope="module")
def models(finished_run: FinishedRun, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace as the seed has it: `models/base`, `adapters/classifier` and `adapters/generator`."""
    work = tmp_path_factory.mktemp("seed")
    shutil.copytree(tiny_base, work / "models" / "base")
    # The adapter of a training, as a folder of its own.
    shutil.copytree(finished_run.folder / "model", work / "adapters" / "classifier")
    shutil.copytree(finished_run.folder / "model", work / "adapters" / "generator")
    return work


@pytest.fixture
def seed(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(models)
    return models


def test_the_seeds_command_makes_a_model_whose_requests_choose(
    seed: Path, finished_run: FinishedRun, kivnun_here: Callable[..., Ended]
) -> None:
    made = kivnun_here(
        *("generate-adapter", "--base_model_path", "models/base"),
        *("--adapter_paths", "adapters/classifier,adapters/generator", "--output_path", "models/multi-adapter"),
    )
    assert made.status == 0, made.err
    assert "classifier: added" in made.err
    listed = kivnun_here("adapters", "list", "models/multi-adapter", "--json")
    adapters = json.loads(listed.out)["adapters"]
    assert [each["name"] for each in adapters] == ["classifier", "generator"]

    # The adapter brought its template along: one value per field, as with the run itself.
    answer = kivnun_here(
        "generate", "models/multi-adapter", "--adapter", "classifier", PHRASE, "--json", "--max-new-tokens", "8"
    )
    assert json.loads(answer.out)["prompt"] == f"Text: {PHRASE}\nTone: "
    assert kivnun_here("generate", "models/multi-adapter", PHRASE).status == 0
    unknown = kivnun_here("generate", "models/multi-adapter", "--adapter", "clasifier", PHRASE)
    assert unknown.status == 2
    assert "classifier, generator" in unknown.err

    # A run folder is an adapter too, under the run's name.
    added = kivnun_here("adapters", "add", "models/multi-adapter", f"run={finished_run.folder}", "--json")
    assert added.status == 0, added.err
    assert [each["name"] for each in json.loads(added.out)["adapters"]] == ["classifier", "generator", "run"]
    assert kivnun_here("adapters", "remove", "models/multi-adapter", "generator").status == 0
    assert "generator" not in kivnun_here("adapters", "list", "models/multi-adapter").out
    said = kivnun_here("chat", "models/multi-adapter", "--adapter", "run", stdin="hello\n\n")
    assert said.status == 0, said.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--adapter_type", "dora"], "write lora"),
        (["--adapter_format", "safetensors"], "write onnx_adapter"),
        (["--precision", "fp32", "--block-size", "32"], "has no effect on fp32"),
    ],
    ids=["type", "format", "block-size"],
)
def test_what_has_no_meaning_is_refused_with_what_to_write(
    seed: Path, kivnun_here: Callable[..., Ended], words: list[str], hint: str
) -> None:
    paths = ("--base-model-path", "models/base", "--adapter-paths", "adapters/classifier", "--output-path", "models/no")
    ended = kivnun_here("generate-adapter", *paths, *words)
    assert ended.status == 2
    assert hint in " ".join(ended.err.split())
    assert not (seed / "models" / "no").exists()


def test_an_adapter_that_was_damaged_is_refused_before_anything_is_built(
    seed: Path, kivnun_here: Callable[..., Ended], tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(seed / "adapters" / "classifier", tmp_path / "damaged"))
    content = bytearray((damaged / ADAPTER.name).read_bytes())
    content[-1] ^= 1
    (damaged / ADAPTER.name).write_bytes(content)
    paths = ("--base_model_path", "models/base", "--adapter_paths", str(damaged), "--output_path", "models/no")
    ended = kivnun_here("generate-adapter", *paths)
    assert ended.status == 2
    assert "error[artifact-damaged]" in ended.err
    assert not (seed / "models" / "no").exists()


def test_a_run_has_no_adapters_to_choose_between(finished_run: FinishedRun, kivnun_here: Callable[..., Ended]) -> None:
    ended = kivnun_here("generate", finished_run.folder, "--adapter", "classifier", PHRASE)
    assert ended.status == 2
    assert "no adapters to choose between" in " ".join(ended.err.split())
    ended = kivnun_here("adapters", "list", finished_run.folder)
    assert ended.status == 2
    assert "generate-adapter" in ended.err
