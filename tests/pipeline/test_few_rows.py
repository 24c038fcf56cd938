"""One to three rows, none of them set aside, as people try a hosted API with: trained from rows to epochs' models."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import BUNDLED_FOLDER
from kivnun.optimization.golden import read_golden
from kivnun.pipeline import run_recipe
from kivnun.recipe.load import load_recipe
from kivnun.runs import open_run, read_events

RECIPE = """
base_model: bundled
data:
  train: rows.jsonl
  split: {{validation: 0, test: 0}}
method: {{kind: lora, rank: 4, alpha: 8}}
training: {{epochs: {epochs}, batch_size: 1, learning_rate: 5e-3, keep_epochs: 2, token_accuracy: true}}
"""
OWN_FILES = {"artifact.json", "golden.json", "README.md"}
"""What only the final model's folder has, or tells of when it was made."""


def chat(number: int) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": f"Hello there {number}"},
            {"role": "assistant", "content": f"Good day to you, {number}."},
        ]
    }


def run(folder: Path, num_rows: int, *, epochs: int) -> list[dict[str, object]]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(chat(row)) + "\n" for row in range(num_rows)), "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(epochs=epochs), "utf-8")
    with open_run(folder / "run") as opened:
        run_recipe(load_recipe(folder / "recipe.yaml"), opened)
    return list(read_events(folder / "run" / "events.jsonl"))


@pytest.mark.parametrize("num_rows", [1, 3])
def test_a_few_rows_are_trained_and_the_last_epochs_kept(tmp_path: Path, monkeypatch, num_rows: int):
    monkeypatch.chdir(tmp_path)
    events = run(tmp_path, num_rows, epochs=3)
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == 3 * num_rows
    assert all(0 <= step["token_accuracy"] <= 1 for step in steps)
    kept = [event for event in events if event["event"] == "epoch_kept"]
    assert [event["step"] for event in kept] == [num_rows, 2 * num_rows, 3 * num_rows]
    run_dir = tmp_path / "run"
    assert sorted(folder.name for folder in (run_dir / "epochs").iterdir()) == [event["folder"] for event in kept[1:]]
    # Nothing was set aside, so the last epoch's model is the one that was trained, file by file.
    model, last = run_dir / "model", run_dir / "epochs" / str(kept[-1]["folder"])
    names = {path.name for path in model.iterdir()} - OWN_FILES
    assert names == {path.name for path in last.iterdir()} - OWN_FILES
    assert all((model / name).read_bytes() == (last / name).read_bytes() for name in names)
    assert len(read_golden(model).prompts) == num_rows


def test_the_model_of_an_epoch_answers_by_itself(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, 1, epochs=40)
    dataset = read_dataset(tmp_path / "run" / "dataset")
    earlier, last = sorted((tmp_path / "run" / "epochs").iterdir())
    model = load_tuned(BUNDLED_FOLDER, last, dtype=torch.float32)
    encoder = Encoder(load_tokenizer(last))
    [row] = dataset.rows("train")
    engine = TorchEngine(model, pad_id=encoder.pad_id)
    [answer] = engine.generate([row.prompt_ids], max_new_tokens=16, stop_ids=dataset.stop_ids)
    assert encoder.decode(answer.token_ids) == "Good day to you, 0."
    name = "adapter_model.safetensors"
    one, other = load_file(earlier / name), load_file(last / name)
    assert any(not torch.equal(one[key], other[key]) for key in one)
