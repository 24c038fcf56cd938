"""A classifier and an embedding model from recipe to answer, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from journey import Ended, read_events, write_jsonl, write_workplace

from kivnun.generation.torch_engine import TorchEngine

CLASSIFIER = """\
base_model: {base}
data:
  train: rows.jsonl
  text_template: "Text: {{phrase}}\\nTone: {{tone}}"
  split: {{validation: 8, test: 12, stratify_by: tone}}
method: {{kind: lora, rank: 4, alpha: 8}}
training:
  objective: classification
  max_steps: 8
  learning_rate: 1e-2
  batch_tokens: 512
  best_metric: macro_f1
  precision: fp32
  compile: false
evaluation: {{task: classification, label: tone, resamples: 100}}
"""
EMBEDDER = """\
base_model: {base}
data:
  train: pairs.jsonl
  prompt_template: "{{said}}"
  answer_template: "{{command}}"
  split: {{validation: 10, test: 10, near_duplicates: ignore}}
method: {{kind: full}}
training:
  objective: {{kind: contrastive, temperature: 0.1}}
  max_steps: 12
  learning_rate: 5e-3
  batch_size: 24
  gradient_accumulation_steps: 2
  best_metric: recall_at_1
  precision: fp32
  compile: false
evaluation: {{task: retrieval, resamples: 100}}
"""
BY_LOSS = EMBEDDER.replace("best_metric: recall_at_1", "best_metric: loss")
PAIRS = Path(__file__).parents[2] / "examples" / "commands" / "commands.jsonl"

Command = Callable[..., Ended]


@pytest.fixture
def classifier(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_workplace(tmp_path, tiny_base, recipe=CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def embedder(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.yaml").write_text(EMBEDDER.format(base=tiny_base), "utf-8")
    write_jsonl(tmp_path / "pairs.jsonl", [json.loads(line) for line in PAIRS.read_text("utf-8").splitlines()[:70]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_classifier_from_recipe_to_answer(
    classifier: Path, kivnun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = kivnun_here("run", "recipe.yaml", "--dry-run")
    assert dry.status == 0, dry.err
    assert "labels: fear, joy, sadness, surprise" in dry.out + dry.err
    # Nothing is generated, neither while training nor in the evaluation.
    monkeypatch.delattr(TorchEngine, "generate")
    ended = kivnun_here("run", "recipe.yaml", "--json")
    assert ended.status == 0, ended.err
    assert "it answers with an untrained one" in ended.err
    folder = classifier / "runs" / "recipe"
    [validation] = [event for event in read_events(folder) if event["event"] == "validation"][-1:]
    assert {"loss", "accuracy", "macro_f1"} <= validation.keys()
    scores = {each["name"]: each["metrics"] for each in json.loads(ended.out)["evaluation"]["scores"]}
    assert set(scores) == {"base", "tuned", "majority class", "TF-IDF + logistic regression"}
    assert {"accuracy", "macro_f1", "perplexity"} <= scores["tuned"].keys()
    answers = [json.loads(line) for line in (folder / "evaluation" / "samples.jsonl").read_text("utf-8").splitlines()]
    assert {row["tuned_answer"] for row in answers} <= {"fear", "joy", "sadness", "surprise"}
    assert "untrained head" in (folder / "report.html").read_text("utf-8")
    said = json.loads(kivnun_here("generate", "recipe", answers[0]["prompt"], "--json").out)
    assert said["label"] == answers[0]["tuned_answer"]
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert said["probability"] == max(said["probabilities"].values())
    plain = kivnun_here("generate", "recipe", answers[0]["prompt"])
    assert plain.out == f"{said['label']}  {said['probability']:.1%}\n"
    talk = kivnun_here("chat", "recipe", stdin="hello\n")
    assert talk.status == 2
    assert "holds a classifier, which answers with a label" in talk.err
    assert kivnun_here("generate", "recipe", "a", "--temperature", "1").status == 2
    assert "holds a model for classification" in kivnun_here("embed", "recipe", "hello").err


def test_an_embedding_model_from_recipe_to_vectors(embedder: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("run", "recipe.yaml", "--json")
    assert ended.status == 0, ended.err
    folder = embedder / "runs" / "recipe"
    events = read_events(folder)
    [validation] = [event for event in events if event["event"] == "validation"][-1:]
    assert {"loss", "recall_at_1", "mrr"} <= validation.keys()
    assert {event["negatives"] for event in events if event["event"] == "step"}
    evaluation = json.loads(ended.out)["evaluation"]
    assert [each["metrics"].keys() for each in evaluation["scores"]] == [{"recall_at_1": 0}.keys()] * 2
    assert (evaluation["perplexity_ratio"], evaluation["yardstick_comparison"]) == (None, None)
    assert "recall at 1" in (folder / "report.html").read_text("utf-8")
    # Given again: read back, and nothing repeated.
    assert kivnun_here("run", "recipe.yaml").status == 0
    samples = [json.loads(line) for line in (folder / "evaluation" / "samples.jsonl").read_text("utf-8").splitlines()]
    texts = [row["prompt"] for row in samples] + sorted({row["reference"] for row in samples})
    write_jsonl(embedder / "texts.jsonl", [{"text": text} for text in texts])
    ended = kivnun_here("embed", "recipe", "--file", "texts.jsonl", "--out", "vectors.npy")
    assert ended.status == 0, ended.err
    vectors = np.load("vectors.npy")
    assert vectors.shape == (len(texts), 64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    # The nearest reference is what the evaluation said, where it said one of these.
    near = (vectors[: len(samples)] @ vectors[len(samples) :].T).argmax(1)
    nearest = [texts[len(samples) + number] for number in near]
    assert [row["tuned_answer"] for row in samples] == nearest
    lines = kivnun_here("embed", "recipe", texts[0]).out.splitlines()
    assert json.loads(lines[0])["vector"] == pytest.approx(vectors[0].tolist(), abs=1e-5)
    for arguments in (("generate", "recipe", "hello"), ("chat", "recipe")):
        refused = kivnun_here(*arguments)
        assert refused.status == 2
        assert "an embedding model, which writes no text" in refused.err
    assert kivnun_here("embed", "recipe", "--file", "texts.jsonl", "--out", "vectors.npy").status == 2
    assert (
        "no text in the column 'phrase'"
        in kivnun_here("embed", "recipe", "--file", "texts.jsonl", "--column", "phrase").err
    )


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (EMBEDDER, "evaluation.task=generation", "evaluation.task: generation does not fit the objective contrastive"),
        (CLASSIFIER, "optimization={precision: int4}", "optimization: exports models that generate text"),
        (CLASSIFIER, "training.validation_metrics=[accuracy]", "measures accuracy and macro_f1 by itself"),
        (CLASSIFIER, "evaluation.max_new_tokens=4", "max_new_tokens: has no effect on the objective classification"),
        (EMBEDDER, "optimization={precision: int4}", "which the objective contrastive does not train"),
        (EMBEDDER, "training.validation_metrics=[rouge_l]", "measures recall_at_1 and mrr by itself"),
        (EMBEDDER, "training.objective.margin=2", "objective.margin: has no effect on the loss in_batch"),
        (EMBEDDER, "training.objective.pair_label=y", "objective.pair_label: has no effect on the loss in_batch"),
        (BY_LOSS, "training.objective=supervised", "retrieval belongs to the objective contrastive, not supervised"),
    ],
)
def test_what_makes_no_sense_with_a_head_is_refused(
    tiny_base: Path, tmp_path: Path, kivnun_here: Command, base: str, change: str, words: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(base.format(base=tiny_base), "utf-8")
    ended = kivnun_here("run", path, "--set", change, "--dry-run")
    assert ended.status == 2
    assert words in ended.err


def test_an_estimate_measures_the_steps_of_a_head(classifier: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("estimate", "recipe.yaml", "--json", "--seconds", "0.2")
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert told["trained_tokens"] == 0
    # The head of four labels is trained by LoRA too, and there is none for tokens.
    own = told["methods"][0]
    assert own["measured"]["num_steps"] > 0
    full = next(each for each in told["methods"] if each["method"] == "full")
    assert full["need"]["trained_parameters"] == full["need"]["all_parameters"]


def test_a_preview_shows_what_a_head_learns_from(classifier: Path, kivnun_here: Command) -> None:
    shown = json.loads(kivnun_here("preview", "recipe.yaml", "--rows", "1", "--json").out)
    assert shown[0]["trained_tokens"] == 0
    assert shown[0]["notes"][0].startswith("the whole text is read; its label: ")
