"""Every method and every objective by the command line: trained, evaluated, answered with, and not done twice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, example_rows, file_times, finished_stages, leftovers, read_events, write_jsonl

Command = Callable[..., Ended]

START = """\
base_model: {base}
training:
  max_steps: 2
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
MERGED = {"dora": 4, "ia3": 8}
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
GENERATION = "evaluation: {task: generation, max_new_tokens: 12, resamples: 100}\n"
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
    rows = example_rows(24)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "texts.jsonl", [{"text": row["phrase"]} for row in rows])
    pairs = [
        {"prompt": row["phrase"], "chosen": row["tone"], "rejected": f"No {number}"}
        for number, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_recipe(desk: Path, base: Path, *, method: str, objective: str, sections: str) -> None:
    text = START.format(base=base, objective=objective) + f"method: {method}\n" + sections
    (desk / "recipe.yaml").write_text(text, "utf-8")


def run_twice(desk: Path, kivnun_here: Command) -> dict[str, object]:
    """The results of a run; given again it repeats no stage and writes none of its files anew."""
    ended = kivnun_here("run", "recipe.yaml", "--json")
    assert ended.status == 0, ended.err
    folder = desk / "runs" / "recipe"
    stages, times = finished_stages(folder), file_times(folder)
    assert {"dataset", "model"} <= stages
    assert leftovers(folder) == []
    trained = [event for event in read_events(folder) if event["event"] == "training_finished"]
    assert [event["step"] for event in trained] == [2]
    again = kivnun_here("run", "recipe.yaml", "--json")
    assert again.status == 0, again.err
    assert all(f"[{stage}] unchanged, not repeated" in again.err for stage in stages)
    assert file_times(folder) == times
    assert json.loads(again.out)["evaluation"] == json.loads(ended.out)["evaluation"]
    return json.loads(ended.out)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_is_evaluated_answers_and_is_not_repeated(
    name: str, tiny_base: Path, desk: Path, kivnun_here: Command
) -> None:
    sections = TONES + TONE_EVALUATION
    if name in MERGED:
        sections += "optimization: {precision: fp32}\n"
    write_recipe(desk, tiny_base, method=METHODS[name], objective="supervised", sections=sections)
    results = run_twice(desk, kivnun_here)
    said = kivnun_here("generate", "recipe", "Text: I am glad\nTone:", "--max-new-tokens", "3", "--json")
    assert said.status == 0, said.err
    print(name, said.out, said.err, results.keys())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_trains_is_evaluated_answers_and_is_not_repeated(
    name: str, tiny_base: Path, desk: Path, kivnun_here: Command
) -> None:
    objective, sections = OBJECTIVES[name]
    write_recipe(desk, tiny_base, method="{kind: lora, rank: 4}", objective=objective, sections=sections)
    results = run_twice(desk, kivnun_here)
    words = ["embed", "recipe", "glad"] if "contrastive" in objective else ["generate", "recipe", "glad"]
    said = kivnun_here(*words)
    assert said.status == 0, said.err
    print(name, said.out[:200], said.err, results)
