"""Olive's files as the seeds print them: whole ones run, pieces and what has no effect are refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from olive_files import (
    OLIVE_JSON,
    OLIVE_YAML,
    changed,
    line_of,
    refusal,
    run_kivnun,
    translate,
    write_olive,
    write_rows,
)
from safetensors.torch import load_file

from kivnun.errors import UserError
from kivnun.olive.files import read_olive_file
from kivnun.recipe.load import load_recipe

SEARCH = """\
search_strategy:
  type: "random"
  num_trials: 20

search_space:
  learning_rate:
    type: "float"
    low: 1e-6
    high: 1e-3
    log: true
"""
TRAINING_ALONE = {"passes.builder": None, "passes.merge_adapter_weights": None, "engine.execution_providers": None}
AZURE_SYSTEMS: dict[str, dict[str, Any]] = {
    "aml": {
        "type": "AzureML",
        "config": {
            "accelerators": ["gpu"],
            "aml_compute": "cluster",
            "aml_docker_config": {"base_image": "ubuntu", "conda_file_path": "conda.yaml"},
        },
    }
}
DATA_STORE = {
    "type": "azureml_datastore",
    "config": {
        "azureml_client": {"subscription_id": "0", "resource_group": "group", "workspace_name": "space"},
        "datastore_name": "workspaceblobstore",
        "relative_path": "tone/train.json",
    },
}


@pytest.fixture
def olive_json(tmp_path: Path, tiny_model_folder: Path) -> Path:
    rows = write_rows(tmp_path / "rows.json")
    return write_olive(tmp_path, OLIVE_JSON, MODEL=tiny_model_folder, ROWS=rows, OUT=tmp_path / "out")


def edit(path: Path, changes: Mapping[str, object]) -> Path:
    path.write_text(changed(path.read_text("utf-8"), changes), "utf-8")
    return path


def lora_ranks(model: Path) -> set[int]:
    weights = load_file(model / "adapter_model.safetensors")
    return {weight.shape[0] for name, weight in weights.items() if "lora_A" in name}


def test_the_seeds_json_trains_the_rank_that_it_asks_for(olive_json: Path, tmp_path: Path) -> None:
    edit(olive_json, TRAINING_ALONE)
    status, out, err = run_kivnun("run", "--config", olive_json, "--json")
    assert status == 0
    assert lora_ranks(tmp_path / "out" / "model") == {8}
    config = json.loads((tmp_path / "out" / "model" / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 8, 0.1)
    assert "method.rank: 8" in err
    rows = {row["key"]: row for row in json.loads(out)["translation"]}
    assert rows["passes.lora.config.lora_r"]["becomes"] == "method.rank: 8"
    kept = load_recipe(tmp_path / "out" / "recipe.yaml").recipe
    assert (kept.data.max_seq_len, kept.training.betas, kept.data.split.seed) == (64, (0.9, 0.999), 42)


def test_rows_that_change_are_trained_anew(olive_json: Path, tmp_path: Path) -> None:
    edit(olive_json, TRAINING_ALONE)
    manifest = tmp_path / "out" / "model" / "artifact.json"
    assert run_kivnun("run", olive_json)[0] == 0
    first = manifest.read_bytes()
    assert run_kivnun("run", olive_json)[0] == 0
    assert manifest.read_bytes() == first
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    rows[0]["phrase"] = "something else entirely"
    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf-8")
    assert run_kivnun("run", olive_json)[0] == 0
    assert manifest.read_bytes() != first


def test_the_seeds_yaml_trains_a_module_whole_beside_the_adapter(tmp_path: Path, tiny_model_folder: Path) -> None:
    rows = write_rows(tmp_path / "rows.json")
    path = write_olive(tmp_path, OLIVE_YAML, name="olive-config.yaml", MODEL=tiny_model_folder, ROWS=rows)
    assert line_of(translate(path), "weight_decay").target == "training.weight_decay: 0.01"
    status, _, err = run_kivnun("run", "--config", path, "--run-dir", tmp_path / "run", "--set", "training.seed=3")
    assert status == 0, err
    assert lora_ranks(tmp_path / "run" / "model") == {16}
    assert load_recipe(tmp_path / "run" / "recipe.yaml").recipe.training.seed == 3
    assert any("lm_head" in name for name in load_file(tmp_path / "run" / "model" / "adapter_model.safetensors"))


def test_the_whole_file_of_the_seed_becomes_one_recipe(olive_json: Path) -> None:
    recipe = translate(olive_json).recipe
    assert recipe["optimization"] == {"precision": "int4", "algorithm": "rtn", "target": "cpu"}
    assert recipe["data"]["split"] == {"validation": 0.3, "test": 0, "seed": 42}  # type: ignore[index]
    assert recipe["training"]["batch_tokens"] == 64  # type: ignore[index]


def test_a_value_that_is_not_olives_is_not_called_so(olive_json: Path, tmp_path: Path) -> None:
    edit(olive_json, {"passes.lora.config.target_modules": None, "passes.lora.config.lora_r": None})
    assert run_kivnun("recipe", "import", olive_json, "-o", tmp_path / "recipe.yaml")[0] == 0
    text = (tmp_path / "recipe.yaml").read_text("utf-8")
    assert "target_modules: all-linear  # not given: Kivnun's own (passes.lora.target_modules)" in text
    assert "rank: 64  # not given: Olive's own (passes.lora.r)" in text


def test_every_line_names_a_key_and_what_became_of_it(olive_json: Path) -> None:
    translation = translate(olive_json)
    fields = set(translation.provenance)
    told = {part.split(":")[0] for line in translation.lines for part in line.target.split(", ") if "." in part}
    assert {path for path in fields if path != "training.betas"} <= told | {"base_model"}
    assert all(line.target or line.note or line.key.endswith(".name") for line in translation.lines)


def test_a_failed_run_does_not_exit_with_0(olive_json: Path, tmp_path: Path) -> None:
    edit(olive_json, TRAINING_ALONE)
    (tmp_path / "rows.json").unlink()
    status, _, said = run_kivnun("run", olive_json)
    assert (status, said.startswith("error[data-missing]")) == (2, True)
    write_rows(tmp_path / "rows.json")
    edit(olive_json, {"passes.lora.config.target_modules": ["qkv_proj"]})
    status, _, said = run_kivnun("run", olive_json)
    assert (status, said.startswith("error[target-modules]")) == (2, True)
    assert not (tmp_path / "out" / "model").exists()


def test_double_quant_has_no_effect_on_lora(olive_json: Path) -> None:
    error = refusal(edit(olive_json, {"passes.lora.config.double_quant": True}))
    assert error.code == "olive-invalid"
    (detail,) = error.details
    line = olive_json.read_text("utf-8").split('"double_quant"')[0].count("\n") + 1
    assert detail.startswith(f"{olive_json}:{line}: passes.lora.config.double_quant: has no effect")
    assert "type: QLoRA" in detail


def test_all_problems_are_said_at_once(olive_json: Path) -> None:
    error = refusal(edit(olive_json, {"passes.lora.config.rnk": 4, "engine.evaluator": "x", "passe": {}}))
    assert [detail.split(": ")[1] for detail in error.details] == [
        "passe",
        "passes.lora.config.rnk",
        "engine.evaluator",
    ]
    assert "did you mean `passes`?" in error.details[0]


def test_a_value_that_the_recipe_refuses_is_said_of_its_own_key(olive_json: Path) -> None:
    error = refusal(edit(olive_json, {"passes.lora.config.lora_r": 0}))
    assert "passes.lora.config.lora_r: (method.rank) input should be greater than 0" in error.details[0]


@pytest.mark.parametrize(
    ("piece", "lacking"),
    [
        ('"data_configs": [\n\t{"name": "a"}\n],', ["input_model", "passes"]),
        ('"systems": {"aml": {"type": "AzureML"}},', ["input_model", "data_configs", "passes"]),
        ('"engine": {"search_strategy": false}', ["input_model", "data_configs", "passes"]),
        ('"lora": {"type": "LoRA", "config": {"lora_r": 64}},', ["input_model", "data_configs"]),
        ("passes:\n  lora:\n    type: LoRA\n    config:\n      r: 16\n", ["input_model", "data_configs"]),
        ("training_config:\n  fp16: true\n", ["input_model", "data_configs", "passes"]),
        (SEARCH, ["input_model", "data_configs", "passes"]),
    ],
    ids=["data", "systems", "engine", "a pass", "passes", "arguments", "search"],
)
def test_a_piece_of_a_file_is_refused_naming_what_it_lacks(tmp_path: Path, piece: str, lacking: list[str]) -> None:
    path = write_olive(tmp_path, piece)
    error = refusal(path)
    assert error.code == "olive-invalid"
    assert [detail.split("lacks ")[1].split(" ")[0] for detail in error.details] == lacking


def test_a_search_is_imported_and_not_run(olive_json: Path, tmp_path: Path) -> None:
    space = {"learning_rate": {"type": "float", "low": 1e-6, "high": 1e-3, "log": True}}
    edit(olive_json, {"search_space": space, "engine.search_strategy": {"type": "random", "num_trials": 20}})
    status, _, said = run_kivnun("run", olive_json)
    assert (status, "kivnun search" in said) == (2, True)
    status, _, said = run_kivnun("recipe", "import", olive_json, "-o", tmp_path / "recipe.yaml")
    assert status == 0
    search = load_recipe(tmp_path / "recipe.yaml").recipe.search
    assert search is not None
    assert (search.sampler, search.num_trials, list(search.space)) == ("random", 20, ["learning_rate"])


def test_an_imported_recipe_loads_back_and_replaces_nothing(olive_json: Path, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    assert run_kivnun("recipe", "import", olive_json, "-o", out)[0] == 0
    text = out.read_text("utf-8")
    assert load_recipe(out).recipe.method.kind == "lora"
    assert "target_modules: [o_proj, q_proj]  # passes.lora.config.target_modules" in text
    status, _, said = run_kivnun("recipe", "import", olive_json, "-o", out)
    assert (status, said.startswith("error[file-exists]")) == (2, True)
    assert out.read_text("utf-8") == text
    assert run_kivnun("recipe", "import", olive_json)[1] == text
    status, _, said = run_kivnun("recipe", "import", out)
    assert (status, "is no Olive file" in said) == (2, True)


def test_setup_is_refused_with_what_to_write(olive_json: Path) -> None:
    status, _, said = run_kivnun("run", "--config", olive_json, "--setup")
    assert (status, said.startswith("error[olive-invalid]: --setup"), "leave --setup out" in said) == (2, True, True)


def test_one_file_is_run_and_not_two(olive_json: Path) -> None:
    assert run_kivnun("run")[0] == 2
    assert run_kivnun("run", olive_json, "--config", olive_json)[0] == 2


def test_a_recipe_runs_by_the_older_flag_as_well(olive_json: Path, tmp_path: Path) -> None:
    edit(olive_json, TRAINING_ALONE)
    assert run_kivnun("recipe", "import", olive_json, "-o", tmp_path / "recipe.yaml")[0] == 0
    by_olive = run_kivnun("run", "--dry-run", olive_json)
    by_recipe = run_kivnun("run", "--dry-run", "--config", tmp_path / "recipe.yaml")
    assert by_olive[:2] == by_recipe[:2]
    assert by_olive[0] == 0


def test_azure_systems_and_stores_become_where(olive_json: Path) -> None:
    changes = {
        "systems": AZURE_SYSTEMS,
        "engine.host": "aml",
        "engine.target": "aml",
        "data_configs.0.load_dataset_config.params.data_files": DATA_STORE,
        "input_model.config.model_path": {
            "type": "azureml_registry_model",
            "config": {"name": "org/phi", "registry_name": "azureml", "version": "11"},
        },
        "input_model.config.hf_config.model_name": "org/phi",
    }
    translation = translate(edit(olive_json, changes))
    assert translation.recipe["where"] == {
        "kind": "azureml",
        "subscription_id": "0",
        "resource_group": "group",
        "workspace_name": "space",
        "compute": "cluster",
        "image": "ubuntu",
        "conda_file": "conda.yaml",
        "inputs": {
            "org/phi": "azureml://registries/azureml/models/org/phi/versions/11",
            "tone/train.json": "azureml://datastores/workspaceblobstore/paths/tone/train.json",
        },
    }
    status, out, _ = run_kivnun("run", "--dry-run", olive_json)
    assert (status, "cluster in the workspace space" in out) == (0, True)


def test_a_data_store_without_a_job_is_refused(olive_json: Path) -> None:
    error = refusal(edit(olive_json, {"data_configs.0.load_dataset_config.params.data_files": DATA_STORE}))
    assert "name an AzureML system in engine.host" in "\n".join(error.details)


def test_a_token_is_put_into_no_job_and_read_here(olive_json: Path) -> None:
    systems = {"aml": {"type": "AzureML", "config": {**AZURE_SYSTEMS["aml"]["config"], "hf_token": True}}}
    there = refusal(edit(olive_json, {"systems": systems, "engine.host": "aml"}))
    (said,) = (detail for detail in there.details if "hf_token" in detail)
    assert "`hf download ORG/NAME --local-dir FOLDER`" in said
    here = {"here": {"type": "LocalSystem", "config": {"hf_token": True}}}
    line = line_of(translate(edit(olive_json, {"systems": here, "engine.host": "here"})), ".hf_token")
    assert (line.outcome, line.note) == ("same", "HF_TOKEN is read from the environment")


def test_a_job_without_its_workspace_is_refused(olive_json: Path) -> None:
    error = refusal(edit(olive_json, {"systems": AZURE_SYSTEMS, "engine.host": "aml"}))
    assert "systems.aml: lacks subscription_id, resource_group, workspace_name" in error.details[0]


def test_characters_beyond_16_bits_survive_json(tmp_path: Path, olive_json: Path) -> None:
    text = changed(olive_json.read_text("utf-8"), {"passes.lora.config.training_args.run_name": "a"})
    path = write_olive(tmp_path, text.replace("### Text: ", "\\ud83d\\ude00\\t"), name="smile.json")
    assert translate(path).recipe["data"]["text_template"].startswith("\U0001f600\t")  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["base_model: bundled\ndata: {train: a}\n", "{", "[1]", "", "passes", "lr: {type: float, low: 1, high: 2}"]
)
def test_other_files_are_left_to_the_recipe_loader(tmp_path: Path, text: str) -> None:
    assert read_olive_file(write_olive(tmp_path, text)) is None


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 problem") as caught:
        read_olive_file(write_olive(tmp_path, '{"passes": {"a": 1,\n "a": 2}}'))
    assert "2: passes.a: stands twice" in caught.value.details[0]
