"""A run checks its data before it trains: errors stop it, what is accepted or only a warning is kept and shown."""

import json
import os
import shutil
from pathlib import Path

import pytest

from kivnun.cli.progress import say_event
from kivnun.errors import UserError
from kivnun.pipeline import run_recipe
from kivnun.plan import describe_plan
from kivnun.recipe.load import LoadedRecipe, load_recipe
from kivnun.runs import open_run

WORDS = ("sun", "rain", "wind", "snow", "fog", "hail", "ice", "dew", "storm", "frost", "mist", "שמש")


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture
def workshop(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    rows = [{"text": word, "label": "joy" if number % 2 else "anger"} for number, word in enumerate(WORDS)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "leak.jsonl", rows[:4])
    return tmp_path


def load(workshop: Path, data: dict[str, object]) -> LoadedRecipe:
    recipe = {"base_model": "model", "data": data, "training": {"max_steps": 1, "precision": "fp32"}}
    path = workshop / "recipe.yaml"
    path.write_text(json.dumps(recipe), "utf-8")
    return load_recipe(path)


def run(workshop: Path, data: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    """Run a recipe in `run`, and give its events."""
    events: list[tuple[str, dict[str, object]]] = []
    with open_run(workshop / "run") as opened:
        run_recipe(load(workshop, data), opened, show=lambda event, fields: events.append((event, dict(fields))))
    return events


LEAKING = {"train": "train.jsonl", "test": "leak.jsonl", "split": {"validation": 0}}


def test_errors_in_the_data_stop_a_run_before_training(workshop: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(workshop, LEAKING)
    assert caught.value.code == "data-check"
    assert caught.value.details[0].startswith("leak.jsonl: 4 of 4 test rows")
    assert "`kivnun check " in caught.value.hint
    assert not (workshop / "run" / "dataset").exists()
    assert not (workshop / "run" / "model").exists()


def test_a_dry_run_refuses_the_same_errors(workshop: Path) -> None:
    with pytest.raises(UserError) as caught:
        describe_plan(load(workshop, LEAKING))
    assert caught.value.code == "data-check"
    lines = describe_plan(load(workshop, {**LEAKING, "ignore_checks": ["leak-large"]}))
    assert "checks: 1 finding(s) accepted by data.ignore_checks: leak-large 1" in lines
    assert any(line.startswith("format: train.jsonl: columns: ") for line in lines)


def test_what_was_found_is_kept_and_shown_in_every_run(workshop: Path) -> None:
    data = {**LEAKING, "ignore_checks": ["leak-large"]}
    for is_first in (True, False):
        events = run(workshop, data)
        assert ("data_checked" in dict(events)) == is_first
        fields = dict(events)["dataset"]
        said = say_event("dataset", fields)
        assert said is not None
        assert "format: train.jsonl: columns: the columns `text` and `label`" in said
        assert "leak-exact 4" in said
        assert "1 finding(s) accepted by data.ignore_checks: leak-large 1" in said
        assert f"see {workshop / 'run' / 'dataset' / 'check.html'}" in said
    summary = json.loads((workshop / "run" / "dataset" / "summary.json").read_text("utf-8"))
    assert summary["checks"]["warnings"]["leak-exact"] == 4
    assert summary["formats"]["train.jsonl"].startswith("columns: ")
    assert json.loads((workshop / "run" / "dataset" / "check.json").read_text("utf-8"))["num_rows"] == 16
    page = (workshop / "run" / "report.html").read_text("utf-8")
    assert 'href="dataset/check.html"' in page
    assert "data checks: " in page


def test_the_time_that_the_checks_took_is_said(workshop: Path) -> None:
    fields = dict(run(workshop, {"train": "train.jsonl", "split": {"validation": 0, "test": 2}}))["data_checked"]
    assert say_event("data_checked", fields) == f"  checked 12 rows in {fields['seconds']:.1f} s"


def test_a_folder_of_files_is_read_and_its_changes_are_seen(workshop: Path) -> None:
    (workshop / "set").mkdir()
    shutil.copy("train.jsonl", "set/train.jsonl")
    write(workshop / "set" / "test.jsonl", [{"text": f"{word} test", "label": "joy"} for word in WORDS])
    data = {"train": "set", "split": {"validation": 0}}
    events = run(workshop, data)
    assert dict(events)["dataset"]["splits"]["test"]["rows"] == 12
    assert "stage_started" not in dict(run(workshop, data))
    write(workshop / "set" / "test.jsonl", [{"text": f"{word} test", "label": "anger"} for word in WORDS])
    assert ("stage_started", {"stage": "dataset"}) in run(workshop, data)


def test_a_file_whose_name_is_not_utf8_is_refused_before_anything_is_written(workshop: Path) -> None:
    name = os.fsdecode(b"rows/\xf9\xe1.jsonl")
    (workshop / "rows").mkdir()
    shutil.copy("train.jsonl", name)
    with pytest.raises(UserError) as caught:
        run(workshop, {"train": "rows", "split": {"validation": 2, "test": 0}})
    assert caught.value.code == "data-encoding"
    assert caught.value.problem.endswith("rows/\\xf9\\xe1.jsonl: the name of this file is not UTF-8")
