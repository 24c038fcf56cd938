"""Jobs upon tuned models: the base that is made computes what the tuned model computes."""

import json
from pathlib import Path

import pytest
import torch

from kivnun.errors import UserError
from kivnun.jobs.continued import make_base
from kivnun.jobs.tuned_base import is_tuned, serving_base
from kivnun.methods import load_tuned, make_method
from kivnun.methods.base_model import BaseModelName
from kivnun.models.load import load_model, load_tokenizer
from kivnun.recipe.methods import LoraMethod

PARENT, CHILD, GRANDCHILD = "ftjob-parent", "ftjob-child", "ftjob-grandchild"
TOKENS = torch.tensor([[5, 6, 7, 8]])


def train_adapter(base: Path, job: Path, *, name: str, seed: int) -> Path:
    """What a job leaves behind: a recipe and an adapter that changes something."""
    folder = job / "run" / "model"
    folder.mkdir(parents=True)
    model = load_model(base, dtype=torch.float32)
    method = make_method(LoraMethod(rank=2))
    generator = torch.Generator().manual_seed(seed)
    method.prepare(model, generator=generator)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    method.export(model, folder, base_model=BaseModelName(name, base))
    load_tokenizer(base).save_pretrained(folder)
    (job / "recipe.yaml").write_text(f"base_model: {json.dumps(name)}\ndata: {{train: training.jsonl}}\n")
    return folder


def logits(base: Path, tuned: Path | None) -> torch.Tensor:
    model = load_model(base, dtype=torch.float32) if tuned is None else load_tuned(base, tuned, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_the_base_of_a_job_upon_a_tuned_model_computes_the_same(tmp_path: Path, tiny_model_folder: Path) -> None:
    jobs = tmp_path / "jobs"
    tuned = train_adapter(tiny_model_folder, jobs / PARENT, name=str(tiny_model_folder), seed=1)
    (jobs / CHILD).mkdir()
    base = Path(make_base(f"jobs/{PARENT}/run/model", jobs / CHILD))
    assert base == jobs / CHILD / "base"
    assert serving_base(f"jobs/{PARENT}/run/model", CHILD, tmp_path) == str(base)
    expected = logits(tiny_model_folder, tuned)
    assert (logits(base, None) - expected).abs().max() < 1e-5
    assert (logits(tiny_model_folder, None) - expected).abs().max() > 1e-2

    child = train_adapter(base, jobs / CHILD, name="base", seed=2)
    (jobs / GRANDCHILD).mkdir()
    second = Path(make_base(f"jobs/{CHILD}/run/model", jobs / GRANDCHILD))
    assert (logits(second, None) - logits(base, child)).abs().max() < 1e-5


def test_it_is_made_once_and_outlives_the_model_that_it_was_made_of(tmp_path: Path, tiny_model_folder: Path) -> None:
    jobs = tmp_path / "jobs"
    tuned = train_adapter(tiny_model_folder, jobs / PARENT, name=str(tiny_model_folder), seed=1)
    (jobs / CHILD).mkdir()
    made = make_base(f"jobs/{PARENT}/run/model", jobs / CHILD)
    tuned.rename(tmp_path / "gone")
    assert make_base(f"jobs/{PARENT}/run/model", jobs / CHILD) == made
    (jobs / GRANDCHILD).mkdir()
    with pytest.raises(UserError, match="does not exist any more"):
        make_base(f"jobs/{PARENT}/run/model", jobs / GRANDCHILD)
    assert list((jobs / GRANDCHILD).iterdir()) == []


@pytest.mark.parametrize("name", ["bundled", "/srv/models/x", "org/name", "jobs/name", "jobs/name/x"])
def test_other_base_models_stay_as_they_are(name: str, tmp_path: Path) -> None:
    assert not is_tuned(name)
    assert make_base(name, tmp_path) == name
    assert serving_base(name, "ftjob-x", tmp_path) is None
