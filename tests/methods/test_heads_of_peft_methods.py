"""Methods that leave the base weights alone still train a classifier's head, which no base model has."""

from pathlib import Path

import pytest
import torch

from kivnun.methods import BaseModelName, load_tuned, make_method, trainable_names
from kivnun.models.heads import Head, load_headed
from kivnun.recipe import methods as sections
from kivnun.recipe.methods import Ia3Method, PrefixMethod, PromptMethod, QloraMethod

METHODS = (Ia3Method(), PrefixMethod(num_virtual_tokens=2), PromptMethod(num_virtual_tokens=2), QloraMethod(rank=2))
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: settings.kind)
def test_a_fresh_head_is_trained_and_comes_back(tiny_model_folder: Path, tmp_path: Path, settings: sections.Method):
    head = Head("classification", pad_token_id=3, labels=("no", "yes"))
    model = load_headed(tiny_model_folder, head, dtype=torch.float32)
    method = make_method(settings)
    method.prepare(model, generator=torch.Generator().manual_seed(0))
    names = trainable_names(model)
    assert "score.weight" in names
    assert len(names) > 1
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).add_(0.1)
        expected = model(input_ids=IDS).logits
    method.export(model, tmp_path, base_model=BaseModelName("tiny", tiny_model_folder))
    head.save(tmp_path)
    again = load_tuned(tiny_model_folder, tmp_path, dtype=torch.float32)
    with torch.no_grad():
        if settings.kind != "qlora":  # which comes back on the base model's own weights
            torch.testing.assert_close(again(input_ids=IDS).logits, expected)
    assert torch.equal(again.get_submodule("score").weight, model.get_submodule("score").weight)
