"""Evaluating and comparing as a user does it after a run: its own rows, other rows, its base model, its ONNX form."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, FinishedRun, example_rows, write_jsonl

KivnunHere = Callable[..., Ended]


@pytest.fixture
def place(finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the finished run, found by its name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "recipe")
    shutil.copy(finished_run.work / "rows.jsonl", tmp_path)
    shutil.copy(finished_run.work / "recipe.yaml", tmp_path)
    return tmp_path


def test_a_run_alone_is_evaluated_on_its_own_test_rows_and_scores_as_it_did(
    place: Path, kivnun_here: KivnunHere
) -> None:
    ended = kivnun_here("evaluate", "recipe#torch", "--json")
    assert ended.status == 0, ended.err
    scores = json.loads(ended.out)
    tuned = json.loads((place / "runs" / "recipe" / "evaluation" / "report.json").read_text())["scores"][1]
    assert scores["num_rows"] == tuned["num_rows"] == 12
    assert scores["metrics"]["accuracy"]["value"] == tuned["metrics"]["accuracy"]["value"]
    assert scores["metrics"]["perplexity"]["value"] == pytest.approx(tuned["metrics"]["perplexity"]["value"], rel=1e-3)
    rows = [json.loads(line) for line in (place / "evaluations/recipe-torch/rows.jsonl").read_text().splitlines()]
    samples = [
        json.loads(line) for line in (place / "runs/recipe/evaluation/samples.jsonl").read_text("utf-8").splitlines()
    ]
    assert {row["row_id"]: row["answer"] for row in rows} == {
        sample["row_id"]: sample["tuned_answer"] for sample in samples
    }
    compared = kivnun_here("compare", "recipe", "evaluations/recipe-torch", "--json")
    assert compared.status == 0, compared.err
    assert json.loads(compared.out)["pairs"][0]["metrics"][0]["ties"] == 12


def test_a_run_is_compared_with_its_base_model_without_asking_anything(place: Path, kivnun_here: KivnunHere) -> None:
    ended = kivnun_here("compare", "recipe", "--json")
    assert ended.status == 0, ended.err
    value = json.loads(ended.out)
    assert [model["name"] for model in value["models"]] == ["recipe (base)", "recipe (tuned)"]
    known = json.loads((place / "runs/recipe/evaluation/report.json").read_text())["comparison"]
    assert value["pairs"][0]["metrics"][0]["p_value"] == pytest.approx(known["p_value"])
    assert Path(value["report"]).is_file()


def test_rows_that_a_run_was_trained_on_are_refused_or_left_out(place: Path, kivnun_here: KivnunHere) -> None:
    refused = kivnun_here("evaluate", "recipe", "--data", "rows.jsonl")
    assert refused.status == 2
    assert "error[test-leaked]" in refused.err
    assert "52 of the 72 rows" in refused.err
    plan = kivnun_here("evaluate", "recipe", "--data", "rows.jsonl", "--leave-out-leaked", "--dry-run", "--json")
    assert json.loads(plan.out)["num_rows"] == 20
    rows = example_rows(100)[72:84]
    # Nearly what was trained on: the same words with other signs and another answer.
    near = {**example_rows()[0], "phrase": example_rows()[0]["phrase"].upper() + " ...", "tone": "other"}
    write_jsonl(place / "new.jsonl", [*rows, near])
    plan = kivnun_here("evaluate", "recipe", "--data", "new.jsonl", "--task", "generation", "--dry-run", "--json")
    assert plan.status == 0, plan.err
    train = place / "runs/recipe/dataset/train.jsonl"
    trained = {json.loads(line)["where"] for line in train.read_text("utf-8").splitlines()}
    is_trained = any(where.endswith("rows.jsonl:1") for where in trained)
    assert any("nearly what a training row" in note for note in json.loads(plan.out)["notes"]) == is_trained


def test_any_form_of_a_model_is_compared_on_a_recipes_test_rows(place: Path, kivnun_here: KivnunHere) -> None:
    folder = next(path.parent for path in (place / "runs/recipe/optimized").glob("*/model.onnx"))
    models = ("recipe#torch", str(folder), "recipe#onnx")
    ended = kivnun_here("compare", *models, "--recipe", "recipe.yaml", "--json")
    assert ended.status == 0, ended.err
    value = json.loads(ended.out)
    assert value["num_rows"] == 12
    assert len(value["pairs"]) == 2
    assert all(pair["metrics"][0]["metric"] == "accuracy" for pair in value["pairs"])
    again = kivnun_here("compare", *models, "--recipe", "recipe.yaml", "--json")
    assert json.loads(again.out)["pairs"] == value["pairs"]
