"""Rows and answers that no training learns are counted before a run: in the plan and in the estimate."""

import json
import shutil
from pathlib import Path

import pytest

from kivnun.estimate.estimate import EstimateOptions, estimate_recipe
from kivnun.plan import describe_plan
from kivnun.recipe.load import LoadedRecipe, load_recipe

WORDS = ("sun", "rain", "wind", "snow", "fog", "hail", "ice", "dew", "storm", "frost", "mist", "שמש")


@pytest.fixture
def workshop(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    return tmp_path


def load(rows: list[dict[str, object]]) -> LoadedRecipe:
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = {"train": "train.jsonl", "split": {"validation": 0, "test": 0}, "prompt_template": None}
    recipe = {"base_model": "model", "data": data, "training": {"max_steps": 1, "precision": "fp32"}}
    Path("recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    return load_recipe(Path("recipe.yaml"))


def judged() -> list[dict[str, object]]:
    return [
        {"prompt": f"what is {word}", "completion": f"it is {word}", "label": number % 3 > 0}
        for number, word in enumerate(WORDS)
    ]


def test_a_dry_run_says_how_many_rows_are_left_out(workshop: Path) -> None:
    lines = describe_plan(load(judged()))
    assert "rows: 8 train, 0 validation, 0 test" in lines
    assert "left out: 4 row(s) marked as undesirable answers" in lines


def test_a_dry_run_says_that_rejected_answers_are_not_learnt(workshop: Path) -> None:
    lines = describe_plan(load([{"prompt": word, "chosen": f"yes {word}", "rejected": "no"} for word in WORDS]))
    assert "data: 12 rows have a rejected answer, which is not learnt: only the preferred one is" in lines


def test_an_estimate_counts_the_rows_that_are_left_out(workshop: Path) -> None:
    estimate = estimate_recipe(load(judged()), EstimateOptions(measure_seconds=0))
    assert (estimate.rows, dict(estimate.dropped)) == (8, {"marked as undesirable answers": 4})
