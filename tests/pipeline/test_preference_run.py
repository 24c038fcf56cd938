"""A whole run by preference: pairs in, both answers learnt, base and tuned compared on held-out pairs."""

import json
from pathlib import Path

import pytest

from kivnun.data.folder import read_dataset
from kivnun.evaluation.results import PREFERENCE, REWARD, TUNED
from kivnun.pipeline import run_recipe
from kivnun.plan import describe_plan
from kivnun.recipe.load import load_recipe
from kivnun.results import read_results
from kivnun.runs import open_run, read_events

WORDS = (
    "fog",
    "sun",
    "rain",
    "sea",
    "wind",
    "snow",
    "ice",
    "dew",
    "hail",
    "mist",
    "שמש",
    "גשם",
    "רוח",
    "ים",
    "עץ",
    "חול",
)
RECIPE = """
base_model: {base}
data:
  train: pairs.jsonl
  split: {{validation: 3, test: 4}}
method: {{kind: full}}
training:
  objective: {kind}
  max_steps: 6
  batch_tokens: 600
  learning_rate: 3e-3
  precision: fp32
evaluation: {{task: generation, max_new_tokens: 40}}
"""


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
def test_a_run_compares_base_and_tuned_on_held_out_pairs(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch, kind: str
):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{word}?", "chosen": f"Yes {word}.", "rejected": f"No {word}!"} for word in WORDS]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    Path("recipe.yaml").write_text(RECIPE.format(base=tiny_model_folder, kind=kind), "utf-8")
    loaded = load_recipe(Path("recipe.yaml"))
    plan = describe_plan(loaded)
    with open_run(tmp_path / "run") as run:
        results = run_recipe(loaded, run)
    assert results.evaluation is not None
    by_name = {scores.name: scores.metrics for scores in results.evaluation.scores}
    assert all(PREFERENCE in metrics for metrics in by_name.values())
    assert by_name[TUNED][REWARD].value == 1.0
    assert results.evaluation.preference_comparison is not None
    assert results.evaluation.preference_comparison.num_rows == 4
    again = read_results(tmp_path / "run", loaded.recipe).evaluation
    assert again is not None
    assert again.preference_comparison == results.evaluation.preference_comparison
    page = results.report.read_text("utf-8")
    assert page.index("preference accuracy") < page.index("exact match")
    dataset = read_dataset(tmp_path / "run" / "dataset")
    assert [row.rejected[:3] for row in dataset.rows("test")] == ["No "] * 4
    [started] = [
        event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "training_started"
    ]
    assert any(line.startswith(f"steps: {started['num_steps']} of") for line in plan)
