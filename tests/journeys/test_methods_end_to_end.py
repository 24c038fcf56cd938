"""Every method and every objective by the command line: trained, evaluated, answered with, and not done twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journey import Ended, example_rows, file_times, finished_stages, leftovers, read_events, write_jsonl

Command = Callable[..., Ended]

NUM_ROWS = 24
NUM_STEPS = 2
MAX_NEW_TOKENS = 8
START = """\
base_model: {base}
training:
  max_steps: {steps}
  learning_rate: 5e-3
  batch_tokens: 256
  precision: fp32
  compile: false
  objective: {objective}
"""
TONES = """\
data:
  train: rows.jsonl
  text_template: "Text: {phrase}\\nTone: {tone}"
  split: {validation: 4, test: 6, near_duplicates: ignore}
  max_seq_len: 256
"""
TONE_EVALUATION = "evaluation: {task: classification, label: tone, max_new_tokens: 8, resamples: 100}\n"
METHODS = {
    "full": "{kind: full}",
    "the last layer": "{kind: partial, last_layers: 1}",
    "named modules": "{kind: partial, modules: [layers.0, embed_tokens]}",
    "lora": "{kind: lora, rank: 4, dropout: 0.1}",
    "rslora and lora+": "{kind: lora, rank: 4, use_rslora: true, learning_rate_ratio: 16}",
    "dora": "{kind: lora, rank: 4, use_dora: true}",
    "lora with saved modules": "{kind: lora, rank: 4, modules_to_save: [embed_tokens]}",
    "qlora": "{kind: qlora, rank: 4}",
    "qlora of fp4 with dora": "{kind: qlora, rank: 4, quant_type: fp4, double_quant: false, use_dora: true}",
    "houlsby": "{kind: adapter, placement: houlsby, bottleneck_size: 4}",
    "pfeiffer": "{kind: adapter, placement: pfeiffer, bottleneck_size: 4, activation: gelu}",
    "ia3": "{kind: ia3}",
    "prefix": "{kind: prefix, num_virtual_tokens: 4}",
    "prompt": "{kind: prompt, num_virtual_tokens: 4, init_text: joy}",
}
SHIPPED = {"dora", "ia3"}
"""Those that are merged and exported as well; the others that merge are in `tests/methods`."""
PAIRS = """\
data:
  train: pairs.jsonl
  split: {validation: 4, test: 6, near_duplicates: ignore}
  max_seq_len: 256
"""
SAID = """\
data:
  train: pairs.jsonl
  prompt_template: "{prompt}"
  answer_template: "{chosen}"
  split: {validation: 4, test: 6, near_duplicates: ignore}
  max_seq_len: 256
"""
TEXT = "data: {train: texts.jsonl, split: {validation: 4, near_duplicates: ignore}, max_seq_len: 256}\n"
GENERATION = "evaluation: {task: generation, max_new_tokens: 8, resamples: 100}\n"
RETRIEVAL = "evaluation: {task: retrieval, resamples: 100}\n"
OBJECTIVES = {
    "supervised": ("supervised", TONES + TONE_EVALUATION),
    "text": ("text", TEXT),
    "dpo": ("{kind: dpo, label_smoothing: 0.1}", PAIRS + GENERATION),
    "orpo": ("orpo", PAIRS + GENERATION),
    "kto": ("{kind: kto, undesirable_weight: 2.0}", PAIRS + GENERATION),
    "classification": ("classification", TONES + TONE_EVALUATION.replace(" max_new_tokens: 8,", "")),
    "in-batch negatives": ("contrastive", SAID + RETRIEVAL),
    "margin": ("{kind: contrastive, loss: margin, pooling: last}", SAID + RETRIEVAL),
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of every shape; it is the current folder."""
    rows = example_rows(NUM_ROWS)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "texts.jsonl", [{"text": row["phrase"]} for row in rows])
    pairs = [
        {"prompt": row["phrase"], "chosen": row["tone"], "rejected": f"No {number}"} for number, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_recipe(desk: Path, base: Path, *, method: str, objective: str, sections: str) -> None:
    text = START.format(base=base, objective=objective, steps=NUM_STEPS) + f"method: {method}\n" + sections
    (desk / "recipe.yaml").write_text(text, "utf-8")


def run_twice(desk: Path, kivnun_here: Command) -> dict[str, Any]:
    """The results of a run; given again it repeats no stage and writes none of its files anew."""
    ended = kivnun_here("run", "recipe.yaml", "--json")
    assert ended.status == 0, ended.err
    folder = desk / "runs" / "recipe"
    stages, times = finished_stages(folder), file_times(folder)
    assert {"dataset", "model"} <= stages
    assert leftovers(folder) == []
    events = read_events(folder)
    [started] = [event for event in events if event["event"] == "training_started"]
    assert started["trained_parameters"] > 0
    assert [event["step"] for event in events if event["event"] == "training_finished"] == [NUM_STEPS]
    again = kivnun_here("run", "recipe.yaml", "--json")
    assert again.status == 0, again.err
    assert [stage for stage in stages if f"[{stage}] unchanged, not repeated" not in again.err] == []
    assert file_times(folder) == times
    results = json.loads(ended.out)
    assert json.loads(again.out)["evaluation"] == results["evaluation"]
    return results


def require_what_was_evaluated(desk: Path, kivnun_here: Command, results: dict[str, Any]) -> None:
    """The tuned model is another than the base model, and answers the user as it answered the test rows."""
    by_model = {scores["name"]: scores["metrics"] for scores in results["evaluation"]["scores"]}
    assert by_model["tuned"]["perplexity"]["value"] != by_model["base"]["perplexity"]["value"]
    lines = (desk / "runs" / "recipe" / "evaluation" / "samples.jsonl").read_text("utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    phrases = [row["phrase"] for row in example_rows(NUM_ROWS)]
    for sample in samples[:2]:
        [asked] = [phrase for phrase in phrases if phrase in sample["prompt"]]
        words = ("generate", "recipe", asked, "--engine", "torch", "--max-new-tokens", MAX_NEW_TOKENS, "--json")
        ended = kivnun_here(*map(str, words))
        assert ended.status == 0, ended.err
        assert json.loads(ended.out)["answer"] == sample["tuned_answer"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_is_evaluated_answers_and_is_not_repeated(
    name: str, tiny_base: Path, desk: Path, kivnun_here: Command
) -> None:
    sections = TONES + TONE_EVALUATION + ("optimization: {precision: fp32}\n" if name in SHIPPED else "")
    write_recipe(desk, tiny_base, method=METHODS[name], objective="supervised", sections=sections)
    results = run_twice(desk, kivnun_here)
    require_what_was_evaluated(desk, kivnun_here, results)
    if name in SHIPPED:
        assert finished_stages(desk / "runs" / "recipe") == {"dataset", "model", "evaluation", "optimized"}
        said = json.loads(kivnun_here("generate", "recipe", "I am glad", "--json").out)
        assert said["engine"] == "onnx"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_trains_is_evaluated_answers_and_is_not_repeated(
    name: str, tiny_base: Path, desk: Path, kivnun_here: Command
) -> None:
    objective, sections = OBJECTIVES[name]
    write_recipe(desk, tiny_base, method="{kind: lora, rank: 4}", objective=objective, sections=sections)
    results = run_twice(desk, kivnun_here)
    if "contrastive" in objective:
        said = kivnun_here("embed", "recipe", "I am glad")
        assert len(json.loads(said.out)["vector"]) == 64, said.err
    elif name == "classification":
        said = json.loads(kivnun_here("generate", "recipe", "I am glad", "--json").out)
        assert said["label"] in {row["tone"] for row in example_rows(NUM_ROWS)}
    elif name == "text":
        assert kivnun_here("generate", "recipe", "I am glad", "--max-new-tokens", "3").status == 0
    else:
        require_what_was_evaluated(desk, kivnun_here, results)
