"""Validation metrics of generated answers: which rows are answered, and what a change of the answers' room does."""

import json
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.pipeline import run_recipe
from kivnun.recipe.load import load_recipe
from kivnun.runs import open_run, read_events

WORDS = ("fog", "sun", "rain", "sea", "wind", "snow", "ice", "dew", "hail", "mist")
RECIPE = """
base_model: {base}
data:
  train: train.jsonl
  validation: validation.jsonl
  test: test.jsonl
  ignore_checks: [kto-one-sided]
method: {{kind: lora, rank: 1}}
training:
  objective: {kind}
  max_steps: 1
  precision: fp32
  compile: false
  validation_metrics: [exact_match]
"""


def write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def judged(word: str, *, label: bool) -> dict[str, object]:
    return {"prompt": f"{word}?", "completion": f"{'Yes' if label else 'No'} {word}.", "label": label}


@pytest.fixture
def judged_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows for KTO; the folder is the current one."""
    monkeypatch.chdir(tmp_path)
    write("train.jsonl", [judged(word, label=number % 2 == 0) for number, word in enumerate(WORDS)])
    write("validation.jsonl", [judged(word, label=word != "sky") for word in ("sky", "sand", "oak")])
    write("test.jsonl", [judged("hill", label=True)])
    return tmp_path


def run(base: Path, *, kind: str = "kto", more: str = "") -> list[dict[str, object]]:
    """Run the recipe in the folder `run`, and give the events so far."""
    Path("recipe.yaml").write_text(RECIPE.format(base=base, kind=kind) + more, "utf-8")
    with open_run(Path("run")) as opened:
        run_recipe(load_recipe(Path("recipe.yaml")), opened)
    return list(read_events(Path("run/events.jsonl")))


def test_bad_answers_are_no_references_and_are_counted_aloud(
    tiny_model_folder: Path, judged_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references: list[list[str]] = []

    def score(names: object, answers: list[str], wanted: list[str]) -> dict[str, float]:
        references.append(wanted)
        return {"exact_match": 0.0}

    monkeypatch.setattr("kivnun.trainee.score_while_training", score)
    events = run(tiny_model_folder)
    assert references
    assert all(wanted == ["Yes sand.", "Yes oak."] for wanted in references)
    [started] = [event for event in events if event["event"] == "training_started"]
    [note] = started["notes"]
    assert note.startswith("1 of 3 validation rows have a bad answer")


def test_bad_answers_alone_are_refused_where_answers_are_compared(tiny_model_folder: Path, judged_rows: Path) -> None:
    write("validation.jsonl", [judged(word, label=False) for word in ("sky", "sand")])
    with pytest.raises(UserError) as caught:
        run(tiny_model_folder)
    assert caught.value.code == "preference-invalid"
    assert "none of the 2 validation rows has a good answer" in caught.value.problem


def test_a_model_that_was_chosen_by_shorter_answers_is_trained_anew(tiny_model_folder: Path, judged_rows: Path) -> None:
    def finished(room: int) -> str:
        more = f"evaluation: {{task: generation, max_new_tokens: {room}, resamples: 100}}\n"
        events = run(tiny_model_folder, more=more)
        return [str(event["event"]) for event in events if event.get("stage") == "model"][-1]

    assert [finished(20), finished(20), finished(21)] == ["stage_finished", "stage_skipped", "stage_finished"]
