"""Whole runs of the tasks beyond labels and equal texts: references, schema, tests and slices all have an effect."""

import json
from pathlib import Path

import pytest

from kivnun.comparison import compare_runs
from kivnun.errors import UserError
from kivnun.evaluation.results import TUNED
from kivnun.pipeline import run_recipe
from kivnun.recipe.load import load_recipe
from kivnun.results import read_results
from kivnun.runs import open_run

RECIPE = """
base_model: {base}
data:
  train: rows.jsonl
  prompt_template: "{{q}}\\n"
  answer_template: "{{a}}\\n"
  split: {{validation: 3, test: 6, near_duplicates: ignore}}
method: {{kind: full}}
training: {{max_steps: 2, batch_tokens: 400, learning_rate: {rate}, precision: fp32}}
evaluation: {{max_new_tokens: 60, resamples: 100, {evaluation}}}
"""
TASKS = {
    "question_answering": ("references: more, slices: [kind], metrics: [bleu]", "token_f1"),
    "extraction": ("json_schema: schema.json", "field_f1"),
    "summarisation": ("", "rouge_l"),
    "code": ("tests: tests, run_code: true", "pass_at_1"),
}


def make_row(number, task):
    row = {"q": f"{'שאלה' if number % 2 else 'Question'} {number}?", "a": f"answer {number}", "kind": f"k{number % 2}"}
    if task == "extraction":
        row["a"] = json.dumps({"number": number, "word": "אור"}, ensure_ascii=False)
    if task == "code":
        row |= {"a": f"def f(): return {number}", "tests": f"assert f() == {number}"}
    return row | {"more": [row["a"], f"the number {number}"]}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.json").write_text('{"type": "object"}', "utf-8")
    return tmp_path


def run(desk, name, base, task, *, rate="1e-3", evaluation=None):
    rows = [make_row(number, task) for number in range(20)]
    (desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = f"task: {task}, {TASKS[task][0] if evaluation is None else evaluation}".rstrip(", ")
    (desk / f"{name}.yaml").write_text(RECIPE.format(base=base, evaluation=asked, rate=rate), "utf-8")
    loaded = load_recipe(Path(f"{name}.yaml"))
    with open_run(desk / name) as folder:
        run_recipe(loaded, folder)
    return read_results(desk / name, loaded.recipe)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_run_scores_both_models_by_the_metrics_of_its_task(tiny_model_folder, desk, task):
    results = run(desk, "run", tiny_model_folder, task)
    main = TASKS[task][1]
    evaluation = results.evaluation
    assert evaluation.comparison.metric == main
    assert {"perplexity", "bits_per_byte"} < set(evaluation.scores[0].metrics)
    assert all(next(iter(scores.metrics)) == main for scores in evaluation.scores)
    assert {part.by for part in evaluation.slices[TUNED]} >= {
        "language",
        *(["kind"] if "kind" in TASKS[task][0] else []),
    }
    page = (desk / "run" / "report.html").read_text("utf-8")
    assert "Parts of the rows" in page
    assert "Hebrew" in page
    if task == "extraction":
        assert evaluation.scores[0].metrics["schema_valid"].value <= 1
        assert {part.value for part in evaluation.slices[TUNED] if part.by == "field"} == {"number", "word"}
    kept = json.loads((desk / "run" / "evaluation" / "report.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(evaluation.to_json()))


def test_runs_are_compared_by_the_main_metric_of_their_task(tiny_model_folder, desk):
    for name, rate in (("first", "1e-3"), ("second", "5e-3")):
        run(desk, name, tiny_model_folder, "question_answering", rate=rate)
    comparison = compare_runs([desk / "first", desk / "second"])
    [pair] = comparison.pairs
    assert (pair.metric, pair.num_rows) == ("token_f1", 6)
    assert comparison.runs[0].metric.name == "token_f1"


@pytest.mark.parametrize(
    ("evaluation", "code"),
    [
        ("metrics: [blue]", "metric-invalid"),
        ("json_schema: missing.json", "evaluation-invalid"),
        ("references: kind", "evaluation-invalid"),
        ("slices: [topic]", "evaluation-invalid"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_training(tiny_model_folder, desk, evaluation, code):
    with pytest.raises(UserError) as caught:
        run(desk, "run", tiny_model_folder, "question_answering", evaluation=evaluation)
    assert caught.value.code == code
    assert not (desk / "run" / "model").exists()
