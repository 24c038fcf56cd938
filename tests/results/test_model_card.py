"""A card says what the run folder says, in the hub's format, and no stage changes because of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from huggingface_hub import ModelCard

from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.evaluation.runner import EvalRow
from kivnun.evaluation.stage import Answers, Evaluation, score_answers
from kivnun.generation.agreement import ParityRow
from kivnun.model_card.facts import read_license
from kivnun.model_card.write import write_cards
from kivnun.recipe.schema import Recipe
from kivnun.results import write_evaluation
from kivnun.runs import (
    ModelLock,
    RunLock,
    content_hash,
    stage_done,
    stage_key,
    verify_artifact,
    write_lock,
    write_stage,
)

LABELS = ("joy", "fear", "joy", "fear", "joy", "fear", "joy", "joy")
PHRASE = "the secret phrase שלום"
TEMPLATE = PromptTemplate("text", "Phrase: {phrase}\n\n\nTone:\n~~~\n", "{tone}")
ROWS = (
    ParityRow("tuned", "fp32", 9000, 100.0, 8, 8, 0, 0, 0.875),
    ParityRow("merged", "fp32", 2**21, 90.0, 8, 8, 0, 0, 0.875, token_agreement=1.0, divergence=0.0),
    ParityRow("int4 ONNX", "int4", 3 * 2**20, None, 8, 6, 0, 2, 0.75, token_agreement=0.9, divergence=0.0123),
    ParityRow("q8_0 GGUF", "q8_0", 9000, None, 4, 4, 0, 0, 0.5, folder="gguf"),
)
UNSEEN = ParityRow("int4 for cuda", "int4", 9, None, 0, 0, 0, 0, None, folder="onnx-int4", verdict="not run here")


def evaluate(recipe: Recipe) -> Evaluation:
    assert recipe.evaluation is not None
    rows = [EvalRow(str(n), f"rows:{n}", PHRASE, (1, 2), label, {}) for n, label in enumerate(LABELS)]
    answers = [Answers(["joy"] * 8), Answers([*LABELS[:7], "fear"])]
    return score_answers(recipe.evaluation, rows, rows, *answers)


def make_recipe(base: Path, work: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "base_model": str(base),
            "data": {"train": str(work / "private" / "phrases.jsonl"), "text_template": "{phrase}{tone}"},
            "method": {"kind": "lora", "rank": 3},
            "training": {"learning_rate": 0.0123},
            "evaluation": {"task": "classification", "label": "tone", "resamples": 100},
            "optimization": {"precision": "int4"},
        }
    )


def write_dataset_folder(folder: Path) -> None:
    counts = {"rows": 8, "tokens": 1234, "trained_tokens": 56}
    summary = {
        "splits": {"train": counts, "validation": counts, "test": counts},
        "dropped": {"too long": 3},
        "stop_ids": [0],
        "checks": {"warnings": {"near-duplicate": 5}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "train.jsonl").write_bytes(orjson.dumps({"prompt": PHRASE, "answer": "joy"}) + b"\n")
    TEMPLATE.save(folder)


def write_events(run: Path, usage: Sequence[dict[str, object]]) -> None:
    steps = [{"event": "step", "step": n + 1, "num_tokens": 100, "seconds": 1.5} for n in range(4)]
    events = [{"event": "fit_started", "key": "k"}, *steps, *({"event": "usage", **each} for each in usage)]
    lines = [json.dumps({"time": "2026-01-01T00:00:00+00:00", **event}) for event in events]
    (run / "events.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A finished run of which only the weights are not real."""
    folder = tmp_path / "runs" / "tone"
    folder.mkdir(parents=True)
    recipe = make_recipe(base, tmp_path)
    lock = RunLock(
        recipe=recipe.model_dump(mode="json"),
        base_model=ModelLock(str(base), None, "b" * 64),
        data={str(tmp_path / "private" / "phrases.jsonl"): "d" * 64},
        seed=7,
        device="cpu",
    )
    write_lock(folder, lock)
    write_events(folder, [])
    for stage in ("dataset", "model", "evaluation", "optimized"):
        with write_stage(folder, stage, kind=stage, key=stage_key({"stage": stage})) as made:
            if stage == "dataset":
                write_dataset_folder(made)
            elif stage == "model":
                (made / "adapter_config.json").write_text("{}")
            elif stage == "evaluation":
                write_evaluation(evaluate(recipe), made)
            else:
                for name, file in (("merged", "model.safetensors"), ("onnx-int4", "model.onnx"), ("gguf", "a.gguf")):
                    (made / name).mkdir()
                    (made / name / file).write_bytes(b"weights")
                (made / "merged" / "config.json").write_text("{}")
                (made / "parity.json").write_bytes(orjson.dumps([asdict(row) for row in ROWS]))
    return folder


def cards(run: Path, base: Path, tmp_path: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text("utf-8") for path in write_cards(run, make_recipe(base, tmp_path))}


def test_every_folder_that_may_be_taken_away_has_a_card(run: Path, base: Path, tmp_path: Path) -> None:
    found = cards(run, base, tmp_path)
    assert list(found) == ["model", "gguf", "merged", "onnx-int4"]
    uses = {"model": "AutoPeft", "gguf": "llama-cli -m FOLDER/a.gguf", "merged": "AutoModel", "onnx-int4": "og.Model"}
    assert all(words in found[name] for name, words in uses.items())


def test_the_hub_reads_licence_language_and_scores(run: Path, base: Path, tmp_path: Path) -> None:
    cards(run, base, tmp_path)
    data = ModelCard.load(run / "optimized" / "merged" / "README.md").data
    assert (data.license, data.language, data.library_name) == ("mit", ["he"], "transformers")
    assert data.base_model is None
    scores = {each.metric_type: each.metric_value for each in data.eval_results or ()}
    assert scores["accuracy"] == 0.875
    assert data.eval_results is not None
    assert data.eval_results[0].dataset_name == "test split of tone, 8 rows"


def test_a_form_that_answers_otherwise_tells_its_own_score_and_its_limits(
    run: Path, base: Path, tmp_path: Path
) -> None:
    text = cards(run, base, tmp_path)["onnx-int4"]
    data = ModelCard(text).data
    assert [(each.metric_type, each.metric_value) for each in data.eval_results or ()] == [("accuracy", 0.75)]
    assert "2 of 8 answers differ from the tuned model's" in text
    assert "did not run on the machine that built it" not in text
    assert "| **int4 ONNX** (this one) | int4 | 3.0 MiB | not measured | 6 of 8 | 90.00% | 0.012 | 0.7500 |" in text


def test_equal_answers_to_a_few_prompts_are_no_scores_on_all_rows(run: Path, base: Path, tmp_path: Path) -> None:
    data = ModelCard(cards(run, base, tmp_path)["gguf"]).data
    assert [(each.metric_value, each.dataset_name) for each in data.eval_results or ()] == [
        (0.5, "test split of tone, 4 rows")
    ]


def test_a_form_that_did_not_run_claims_no_scores(run: Path, base: Path, tmp_path: Path) -> None:
    (run / "optimized" / "parity.json").write_bytes(orjson.dumps([asdict(row) for row in (*ROWS[:2], UNSEEN)]))
    text = cards(run, base, tmp_path)["onnx-int4"]
    assert ModelCard(text).data.eval_results is None
    assert "did not run on the machine that built it: what it answers was not measured" in text


def test_a_card_tells_data_settings_scores_and_cost(run: Path, base: Path, tmp_path: Path) -> None:
    text = cards(run, base, tmp_path)["merged"]
    tuned = evaluate(make_recipe(base, tmp_path)).scores[1].metrics["accuracy"]
    for words in (
        f"| phrases.jsonl | `{'d' * 64}` |",
        "| train | 8 | 1,234 | 56 |",
        "Left out: 3 row(s), too long.",
        "near-duplicate 5",
        "- `method.rank: 3`",
        "- `training.learning_rate: 0.0123`",
        "4 steps over 400 tokens took 6.0 s on cpu",
        "Energy: not measured",
        f"{tuned.value:.4g} [{tuned.low:.4g}, {tuned.high:.4g}]",
        "majority class",
    ):
        assert words in text, words


def test_a_card_holds_no_row_and_no_path_of_this_machine(run: Path, base: Path, tmp_path: Path) -> None:
    for text in cards(run, base, tmp_path).values():
        assert "secret" not in text
        assert str(tmp_path) not in text
        assert "/private/" not in text


def test_a_path_deep_in_a_setting_is_left_out_but_for_its_last_part(run: Path, base: Path, tmp_path: Path) -> None:
    plain = make_recipe(base, tmp_path).model_dump(mode="json", exclude_unset=True)
    options = {"table": str(tmp_path / "private" / "words.csv"), "weight": 2}
    plain["training"] |= {"objective": {"kind": "custom", "name": "mine", "options": options}}
    [text, *_] = [path.read_text("utf-8") for path in write_cards(run, Recipe.model_validate(plain))]
    assert str(tmp_path) not in text
    assert '"options":{"table":"words.csv","weight":2}' in text


def test_the_prompt_template_stands_in_the_card_as_it_is(run: Path, base: Path, tmp_path: Path) -> None:
    assert f"~~~~text\n{TEMPLATE.prompt}\n~~~~" in cards(run, base, tmp_path)["merged"]


def test_energy_is_what_the_counters_said(run: Path, base: Path, tmp_path: Path) -> None:
    write_events(run, [{"energy_joules": 100.5, "energy_seconds": 2.0}, {"energy_joules": 50.0, "energy_seconds": 3.0}])
    assert "Energy: 150 J in the 5.0 s that were sampled" in cards(run, base, tmp_path)["merged"]


def test_cards_change_no_stage_and_other_files_do(run: Path, base: Path, tmp_path: Path) -> None:
    before = {stage: content_hash(run / stage) for stage in ("model", "optimized")}
    cards(run, base, tmp_path)
    for stage, value in before.items():
        assert stage_done(run, stage, stage_key({"stage": stage}))
        assert verify_artifact(run / stage).content_hash == value
    (run / "optimized" / "merged" / "NOTES.md").write_text("mine")
    with pytest.raises(UserError, match="cannot be trusted"):
        verify_artifact(run / "optimized")


def test_a_licence_is_read_from_the_card_then_the_config_and_else_unknown(base: Path) -> None:
    (base / "config.json").write_text('{"license": "gemma"}')
    assert read_license(base)[0] == "mit"
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert read_license(base)[0] == "gemma"
    (base / "config.json").write_text("{}")
    assert read_license(base)[0] == read_license(None)[0] == "other"
