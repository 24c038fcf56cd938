"""`kivnun recipe`: data on stdout, words on stderr, nothing overwritten."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kivnun.cli.recipe import app
from kivnun.errors import UserError
from kivnun.recipe import load_recipe
from kivnun.recipe.starter import starter_recipe


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def loaded_by(modules: str) -> set[str]:
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def refusal(*arguments: str) -> UserError:
    result = run(*arguments)
    assert isinstance(result.exception, UserError)
    assert result.stdout == ""
    return result.exception


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", ["lora", "full"])
def test_init_writes_a_recipe_that_loads(here: Path, method: str) -> None:
    result = run("init", "new/recipe.yaml", "--method", method)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "wrote new/recipe.yaml" in result.stderr
    assert load_recipe(here / "new" / "recipe.yaml").recipe == starter_recipe(method)


def test_init_prints_on_request(here: Path) -> None:
    result = run("init", "-")
    assert "base_model: bundled\n" in result.stdout
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", [["init", "x.yaml"], ["schema", "-o", "x.yaml"]])
def test_a_file_is_overwritten_only_by_force(here: Path, command: list[str]) -> None:
    (here / "x.yaml").write_text("mine")
    assert refusal(*command).code == "file-exists"
    assert (here / "x.yaml").read_text() == "mine"
    assert run(*command, "--force").exit_code == 0
    assert (here / "x.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    "command",
    [
        ["init", "/proc/nope/recipe.yaml"],
        ["init", "folder"],
        ["init", "folder", "--force"],
        ["init", "/", "--force"],
        ["schema", "-o", "file/recipe.schema.json"],
    ],
)
def test_what_cannot_be_written_is_refused_in_words(here: Path, command: list[str]) -> None:
    (here / "folder").mkdir()
    (here / "file").write_text("mine")
    assert refusal(*command).code == "file-unwritable"
    assert sorted(path.name for path in here.rglob("*")) == ["file", "folder"]


def test_check_shows_every_value_with_its_source(here: Path) -> None:
    (here / "r.yaml").write_text("base_model: bundled\ndata: {train: a.jsonl}\n")
    (here / "a.jsonl").touch()
    result = run("check", "r.yaml", "--set", "training.seed=7")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["base_model", "bundled", "file"] in rows
    assert ["training.seed", "7", "--set"] in rows
    assert ["training.optimizer", "adamw", "default"] in rows
    assert result.stderr == "r.yaml is valid\n"


def test_check_tells_programs_the_same(here: Path) -> None:
    (here / "r.yaml").write_text("base_model: bundled\ndata: {train: a.jsonl}\n")
    (here / "a.jsonl").touch()
    answer = json.loads(run("check", "r.yaml", "--json", "--set", "training.seed=7").stdout)
    assert answer["recipe"]["training"]["seed"] == 7
    assert answer["provenance"]["training.seed"] == "--set"


def test_check_refuses_a_recipe_whose_data_is_missing(here: Path) -> None:
    (here / "r.yaml").write_text("base_model: bundled\ndata: {train: [a.jsonl, b.jsonl], test: c.jsonl}\n")
    (here / "b.jsonl").touch()
    error = refusal("check", "r.yaml")
    assert error.code == "data-missing"
    assert error.details == ("data.train: a.jsonl", "data.test: c.jsonl")


def test_check_refuses_a_wrong_recipe(here: Path) -> None:
    (here / "r.yaml").write_text("base_model: bundled\n")
    assert refusal("check", "r.yaml").details == ("r.yaml:1: data: this field is required",)


def test_explain_names_type_default_and_meaning() -> None:
    assert "training.learning_rate" in run("explain").stdout
    assert "Peak learning rate." in run("explain", "training.learning_rate").stdout
    assert run("explain", "--markdown").stdout.startswith("# The recipe\n")
    assert json.loads(run("explain", "training.seed", "--json").stdout)[0]["default"] == "0"


def test_schema_prints_a_json_schema() -> None:
    assert json.loads(run("schema").stdout)["title"] == "Kivnun recipe"


def test_diff_shows_what_differs(here: Path) -> None:
    (here / "a.yaml").write_text("base_model: bundled\ndata: {train: a.jsonl}\n")
    (here / "b.yaml").write_text("data: {train: a.jsonl}\nbase_model: bundled\ntraining: {betas: [0.9, 0.95]}\n")
    assert "training.betas" in run("diff", "a.yaml", "b.yaml").stdout
    answer = json.loads(run("diff", "a.yaml", "b.yaml", "--json").stdout)
    assert answer == [{"path": "training.betas", "left": [0.9, 0.999], "right": [0.9, 0.95]}]
    same = run("diff", "a.yaml", "a.yaml")
    assert same.stdout == ""
    assert "describe the same run" in same.stderr


def test_the_command_starts_without_loading_what_costs_time() -> None:
    assert loaded_by("kivnun.cli.recipe") & {"pydantic", "ruamel", "torch", "numpy"} == set()


def test_the_recipe_floor_never_loads_torch() -> None:
    assert loaded_by("kivnun.recipe, kivnun.runs") & {"torch", "numpy", "transformers"} == set()
