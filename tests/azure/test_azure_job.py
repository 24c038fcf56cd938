"""A run as an Azure Machine Learning job: what is written, what is sent, and what is refused."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from workspace_stand_in import Workspace

from kivnun.azure.job import write_job
from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe

STORED = "azureml://datastores/workspaceblobstore/paths/test.json"
WHERE = """
where:
  kind: azureml
  subscription_id: 00000000-0000-0000-0000-000000000001
  resource_group: research
  workspace_name: tuning
  compute: gpu-cluster
"""
RECIPE = """
base_model: bundled
data:
  train: [rows/train.json, more/train.json]
  test: blob/test.json
  text_template: "{phrase} {tone}"
"""
SENT = """
import json, sys
from pathlib import Path
from kivnun.azure.job import write_job
from kivnun.azure.submit import submit
from kivnun.recipe.load import load_recipe
loaded = load_recipe(Path(sys.argv[1]))
job = submit(write_job(loaded, Path(sys.argv[2])), loaded.recipe.where)
print(json.dumps([job.name, job.status, job.studio_url]))
"""


def yaml_of(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("rows", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(json.dumps([{"phrase": name, "tone": "joy"}]), "utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}{WHERE}  inputs: {{blob/test.json: '{STORED}'}}\n", "utf-8")
    return path


def send(recipe: Path, workspace: Workspace) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "IDENTITY", "MSI"))}
    command = [sys.executable, "-c", SENT, str(recipe), str(recipe.parent / "job")]
    return subprocess.run(command, env=kept | workspace.environment, capture_output=True, text=True, check=False)


def test_a_job_says_command_code_inputs_and_environment(recipe: Path):
    job = write_job(load_recipe(recipe), recipe.parent / "job")
    said = yaml_of(job.folder / "job.yml")
    assert said == job.specification
    assert said["type"] == "command"
    assert said["compute"] == "azureml:gpu-cluster"
    assert said["inputs"] == {"input_0": {"type": "uri_file", "path": STORED}}
    assert said["command"] == (
        "kivnun run recipe.yaml --run-dir ${{outputs.run}} --set 'data.test=\"${{inputs.input_0}}\"'"
    )
    assert yaml_of(job.folder / "conda.yaml")["dependencies"][-1]["pip"][0].startswith("kivnun==")


def test_two_files_of_one_name_go_along_as_two(recipe: Path):
    job = write_job(load_recipe(recipe), recipe.parent / "job")
    assert list(job.sent) == ["code/inputs/0-train.json", "code/inputs/1-train.json", "code/recipe.yaml"]
    sent = load_recipe(job.folder / "code" / "recipe.yaml").recipe
    assert sent.data.train == ("inputs/0-train.json", "inputs/1-train.json")
    assert sent.where is None
    assert json.loads((job.folder / "code/inputs/1-train.json").read_text("utf-8"))[0]["phrase"] == "more"


def test_a_job_that_is_written_again_takes_the_place_of_the_earlier_one(recipe: Path):
    folder = recipe.parent / "job"
    write_job(load_recipe(recipe), folder)
    (folder / "old").write_text("left over")
    write_job(load_recipe(recipe), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["code", "conda.yaml", "job.yml"]


def test_a_folder_that_holds_something_else_is_kept(recipe: Path):
    (recipe.parent / "job").mkdir()
    (recipe.parent / "job" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError) as caught:
        write_job(load_recipe(recipe), recipe.parent / "job")
    assert caught.value.code == "file-exists"
    assert (recipe.parent / "job" / "thesis.txt").read_text() == "mine"


def test_several_machines_are_one_run(recipe: Path, tmp_path: Path):
    alone = write_job(load_recipe(recipe), recipe.parent / "job").specification
    assert "distribution" not in alone
    recipe.write_text(recipe.read_text("utf-8") + "  instance_count: 2\n", "utf-8")
    with Workspace(tmp_path) as workspace:
        ended = send(recipe, workspace)
        assert ended.returncode == 0, ended.stderr
        (job,) = workspace.jobs.values()
    assert job["resources"]["instanceCount"] == 2
    assert job["distribution"] == {"distributionType": "PyTorch", "processCountPerInstance": 1}


def test_no_name_of_a_file_ends_the_words_of_the_command(recipe: Path):
    odd = "it's; שלום.json"
    (recipe.parent / "rows" / odd).write_text(json.dumps([{"phrase": "a", "tone": "joy"}]), "utf-8")
    text = recipe.read_text("utf-8").replace("test: blob/test.json", f'test: [blob/test.json, "rows/{odd}"]')
    recipe.write_text(text, "utf-8")
    command = str(write_job(load_recipe(recipe), recipe.parent / "job").specification["command"])
    assert shlex.split(command)[-1].startswith("data.test=[")
    assert len(shlex.split(command)) == len(shlex.split(command.partition(" --set ")[0])) + 2


def test_an_input_that_the_recipe_does_not_read_is_refused(recipe: Path):
    recipe.write_text(recipe.read_text("utf-8").replace("{blob/test.json:", "{blob/tets.json:"), "utf-8")
    with pytest.raises(UserError, match=r"blob/tets\.json is named nowhere else") as caught:
        write_job(load_recipe(recipe), recipe.parent / "job")
    assert caught.value.code == "azure-invalid"
    assert not (recipe.parent / "job").exists()


def test_an_environment_without_kivnun_is_refused(recipe: Path):
    (recipe.parent / "conda.yaml").write_text("name: x\ndependencies:\n  - pip:\n    - olive-ai[gpu]\n", "utf-8")
    recipe.write_text(recipe.read_text("utf-8") + "  conda_file: conda.yaml\n", "utf-8")
    with pytest.raises(UserError, match="does not install Kivnun") as caught:
        write_job(load_recipe(recipe), recipe.parent / "job")
    assert "in place of olive-ai" in caught.value.hint
    text = (recipe.parent / "conda.yaml").read_text("utf-8").replace("olive-ai[gpu]", "kivnun[gpu]")
    (recipe.parent / "conda.yaml").write_text(text, "utf-8")
    job = write_job(load_recipe(recipe), recipe.parent / "job")
    assert (job.folder / "conda.yaml").read_text("utf-8") == text


def test_a_job_is_sent_with_its_code_and_watched_in_the_studio(recipe: Path, tmp_path: Path):
    with Workspace(tmp_path) as workspace:
        ended = send(recipe, workspace)
        assert ended.returncode == 0, ended.stderr
        name, status, studio = json.loads(ended.stdout.splitlines()[-1])
        assert status == "Starting"
        assert studio == f"https://ml.azure.com/runs/{name}"
        assert workspace.jobs[name]["command"].startswith("kivnun run recipe.yaml --run-dir ${{outputs.run}}")
        assert workspace.jobs[name]["inputs"]["input_0"]["uri"] == STORED
        assert set(workspace.blobs) >= {f"code/inputs/{number}-train.json" for number in (0, 1)} | {"code/recipe.yaml"}
        assert "kivnun==" in workspace.environments[0]["condaFile"]
        assert "Bearer loopback-token" in workspace.tokens
        assert "loopback-token" not in ended.stdout + ended.stderr


def test_without_anybody_signed_in_the_job_is_written_and_not_sent(recipe: Path, tmp_path: Path):
    with Workspace(tmp_path, signs_in=False) as workspace:
        ended = send(recipe, workspace)
        assert ended.returncode != 0
        assert "error[azure-credentials]" in ended.stderr
        assert workspace.jobs == {}
    assert (tmp_path / "job" / "job.yml").is_file()


def test_what_the_workspace_refuses_is_said_in_its_words(recipe: Path, tmp_path: Path):
    with Workspace(tmp_path, refuses_jobs=True) as workspace:
        ended = send(recipe, workspace)
    assert ended.returncode != 0
    assert "error[azure-failed]" in ended.stderr
    assert "Unknown compute target 'gpu-cluster'" in ended.stderr
