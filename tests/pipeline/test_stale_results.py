"""A result is used only while everything that it was made from is still what lies there."""

import json
import shutil
from pathlib import Path

import pytest

from kivnun.assistant import is_current, open_assistant, require_current
from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.errors import UserError
from kivnun.evaluation.runner import EvalRow
from kivnun.evaluation.stage import require_answers_fit
from kivnun.pipeline import run_recipe
from kivnun.recipe.load import load_recipe
from kivnun.recipe.schema import EvaluationSection
from kivnun.results import training_events
from kivnun.runs import open_run, write_stage

WORDS = ("sun", "rain", "wind", "snow", "fog", "hail", "ice", "dew", "storm", "frost", "mist", "heat")


def write_rows(path: Path, suffix: str) -> None:
    lines = [
        json.dumps({"phrase": f"{word} {suffix}", "tone": "joy" if i % 2 else "fear"}) for i, word in enumerate(WORDS)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def workshop(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a.jsonl", "today")
    write_rows(tmp_path / "b.jsonl", "tomorrow")
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    return tmp_path


def run(folder: Path, data: dict[str, object], **sections: object) -> list[str]:
    """Run a recipe in `folder/run` and give the stages that were made."""
    recipe = {
        "base_model": "model",
        "data": {"text_template": "{phrase} is {tone}", **data},
        "training": {"max_steps": 1, "precision": "fp32", **sections},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), "utf-8")
    made: list[str] = []

    def show(event: str, fields: dict[str, object]) -> None:
        if event == "stage_started":
            made.append(str(fields["stage"]))

    with open_run(folder / "run") as opened:
        run_recipe(load_recipe(path), opened, show=show)
    return made


def test_the_same_files_in_other_roles_are_other_data(workshop: Path):
    split = {"validation": 0, "test": 2}
    assert run(workshop, {"train": ["a.jsonl", "b.jsonl"], "split": split}) == ["dataset", "model"]
    assert run(workshop, {"train": ["a.jsonl", "b.jsonl"], "split": split}) == []
    assert run(workshop, {"train": "a.jsonl", "test": "b.jsonl", "split": {"validation": 0, "test": 0}})[0] == "dataset"
    assert run(workshop, {"train": "b.jsonl", "test": "a.jsonl", "split": {"validation": 0, "test": 0}})[0] == "dataset"


def test_an_export_of_an_earlier_model_is_not_used(workshop: Path):
    data = {"train": "a.jsonl", "split": {"validation": 0, "test": 0}}
    run(workshop, data)
    folder = workshop / "run"
    with write_stage(folder, "optimized", kind="optimized", key="x", parents=("model", "dataset")) as partial:
        (partial / "parity.json").write_text("[]", "utf-8")
    assert is_current(folder, "optimized")
    assert run(workshop, data, seed=1) == ["model"]
    assert not is_current(folder, "optimized")
    assert open_assistant(folder, None).engine.name == "torch"
    with pytest.raises(UserError, match="earlier state") as caught:
        open_assistant(folder, "onnx")
    assert caught.value.code == "run-missing"
    with pytest.raises(UserError, match="earlier state"):
        require_current(folder, "optimized")


def test_an_adapter_is_not_put_on_another_base_model(workshop: Path):
    run(workshop, {"train": "a.jsonl", "split": {"validation": 0, "test": 0}})
    config = workshop / "model" / "config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(UserError, match="not the one") as caught:
        open_assistant(workshop / "run", "torch")
    assert caught.value.code == "model-invalid"


def test_the_report_draws_the_latest_training_alone():
    def fit(key: str, step: int) -> dict[str, object]:
        return {"event": "fit_started", "key": key, "from_step": step}

    def validation(step: int, loss: float) -> dict[str, object]:
        return {"event": "validation", "step": step, "loss": loss}

    events = [fit("old", 0), validation(3, 0.1), fit("new", 0), validation(5, 0.9), fit("new", 5), validation(10, 0.8)]
    kept = [(event["step"], event["loss"]) for event in training_events(events) if event["event"] == "validation"]
    assert kept == [(5, 0.9), (10, 0.8)]
    assert training_events([]) == []


def test_answers_longer_than_the_limit_are_refused_before_training():
    row = EvalRow("1", "rows.jsonl:7", "?", (5, 6), "!", {})
    table = make_table([TokenizedRow([5, 6, 7, 8, 0], [False, False, True, True, True])])
    require_answers_fit([row], table, EvaluationSection(task="generation", max_new_tokens=2))
    with pytest.raises(UserError, match=r"1 of 1 test answers") as caught:
        require_answers_fit([row], table, EvaluationSection(task="generation", max_new_tokens=1))
    assert caught.value.code == "answer-too-long"
    assert "rows.jsonl:7: 2 tokens" in caught.value.details
