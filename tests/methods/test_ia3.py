"""(IA)3: PEFT's scales in our models; trained alone, exported, reloaded, merged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import BaseModelName, load_tuned, make_method, merge, trainable_names
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.late_imports import load_peft
from kivnun.models.load import load_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.methods import Ia3Method
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(3, 23).view(2, 10)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def prepared(model: Model, **fields: object) -> Model:
    make_method(Ia3Method(**fields)).prepare(model, generator=torch.Generator())
    return model


def tuned(folder: Path, out: Path, **fields: object) -> Model:
    """Scales of some size, as after a training, and their folder in `out`."""
    model = prepared(load_model(folder, dtype=torch.float32), **fields)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in trainable_names(model):
            model.get_parameter(name).normal_(1, 0.5, generator=generator)
    out.mkdir()
    make_method(Ia3Method(**fields)).export(model, out, base_model=BaseModelName("tiny", folder))
    return model


def test_untrained_scales_are_the_base_model_exactly_and_draw_nothing(tiny_model: Model):
    before, state = logits(tiny_model), torch.get_rng_state()
    prepared(tiny_model)
    assert torch.equal(logits(tiny_model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in tiny_model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("fields", "suffixes"),
    [
        ({}, ("down_proj", "k_proj", "v_proj")),
        ({"target_modules": ("v_proj", "mlp.down_proj")}, ("down_proj", "v_proj")),
        ({"target_modules": ("q_proj", "up_proj"), "feedforward_modules": ("up_proj",)}, ("q_proj", "up_proj")),
    ],
    ids=str,
)
def test_exactly_the_scales_are_trained(
    tiny_model_folder: Path,
    tiny_table: TokenTable,
    fields: dict[str, object],
    suffixes: tuple[str, ...],
    dtype: torch.dtype,
):
    model = prepared(load_model(tiny_model_folder, dtype=dtype), **fields)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    promised = {name for name in before if ".ia3_l." in name}
    assert {name.split(".")[-3] for name in promised} == set(suffixes)
    assert set(trainable_names(model)) == promised
    settings = TrainingSection(max_steps=2, batch_tokens=100, learning_rate=0.01, precision="fp32")
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    list(fit(model, weights, tiny_table, settings, plan=make_plan(tiny_table.lengths(), settings)))
    assert {name for name, value in model.named_parameters() if not torch.equal(value, before[name])} == promised


@pytest.mark.parametrize(
    "fields", [{}, {"target_modules": ("q_proj", "up_proj"), "feedforward_modules": ("up_proj",)}], ids=str
)
def test_a_folder_answers_the_same_here_in_peft_and_merged(
    tiny_model_folder: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, fields: dict[str, object]
):
    model = tuned(tiny_model_folder, tmp_path / "out", **fields)
    expected = logits(model)
    base = load_model(tiny_model_folder, dtype=torch.float32)
    assert (logits(base) - expected).norm() > 0.01 * expected.norm()
    theirs = load_peft().PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    torch.testing.assert_close(logits(theirs), expected, atol=1e-6, rtol=1e-5)
    again = load_tuned(tiny_model_folder, tmp_path / "out", dtype=torch.float32)
    assert torch.equal(logits(again), expected)
    prompts = [[5, 9, 30], [7, 8]]
    use_packed_attention(model)
    use_standard_attention(model)
    answers = [
        TorchEngine(each, pad_id=0).generate(prompts, max_new_tokens=5, stop_ids=frozenset()) for each in (model, again)
    ]
    assert [answer.token_ids for answer in answers[0]] == [answer.token_ids for answer in answers[1]]
    save_model(merge(again), tiny_tokenizer, tmp_path / "merged")
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    names = {name for name, _ in load_model(tiny_model_folder, dtype=torch.float32).named_parameters()}
    assert {name for name, _ in merged.named_parameters()} == names


def test_transposed_layers_with_biases_are_scaled_and_merged_too(tmp_path: Path):
    """GPT-2 keeps its matrices the other way round, and PEFT knows which ones to scale."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    model = tuned(tmp_path / "base", tmp_path / "out")
    expected = logits(model)
    again = load_tuned(tmp_path / "base", tmp_path / "out", dtype=torch.float32)
    assert torch.equal(logits(again), expected)
    torch.testing.assert_close(logits(merge(again)), expected, atol=1e-5, rtol=1e-4)
    use_packed_attention(model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": ("v_prj",)}, "v_prj"),
        ({"target_modules": ("v_proj",), "feedforward_modules": ("down_proj",)}, "not among method.target_modules"),
        ({"feedforward_modules": ("up_proj",)}, "not among method.target_modules"),
    ],
)
def test_a_name_that_matches_nothing_is_refused(tiny_model: Model, fields: dict[str, object], words: str):
    with pytest.raises(UserError, match=words) as caught:
        prepared(tiny_model, **fields)
    assert caught.value.code == "target-modules"
    assert not any(".ia3_l." in name for name, _ in tiny_model.named_parameters())


def test_an_architecture_that_peft_does_not_know_needs_names(tiny_model: Model):
    tiny_model.config.model_type = "unknown"
    with pytest.raises(UserError, match="no choice of layers for the architecture unknown") as caught:
        prepared(tiny_model)
    assert caught.value.code == "target-modules"
    prepared(tiny_model, target_modules=("v_proj",))


def test_a_folder_that_does_not_fit_or_asks_for_more_is_refused(tiny_model_folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    tuned(tiny_model_folder, out)
    config, weights = out / "adapter_config.json", out / "adapter_model.safetensors"
    fields, tensors = json.loads(config.read_text()), load_file(weights)
    first = min(tensors)

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_tuned(tiny_model_folder, out, dtype=torch.float32)
        assert caught.value.code == "adapter-invalid"

    save_file({**tensors, first: tensors[first][:-1].contiguous()}, weights)
    refused("has shape")
    save_file({name: value for name, value in tensors.items() if name != first}, weights)
    refused("has shape None")
    save_file(tensors, weights)
    config.write_text(json.dumps({**fields, "target_modules": ["nothing"]}))
    refused("does not fit the base model")
    config.write_text(json.dumps({**fields, "modules_to_save": ["lm_head"]}))
    refused("lm_head.weight has shape None")
    config.write_text(json.dumps({**fields, "layer_replication": [[0, 2]]}))
    refused("layer_replication")
