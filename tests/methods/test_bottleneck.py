"""Bottleneck adapters: the formula, where they stand, and what their folder must hold."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import BaseModelName
from kivnun.methods.bottleneck import Bottleneck, BottleneckOutput, load_bottleneck
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import BottleneckMethod

IDS = torch.arange(3, 23).view(2, 10)
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=24)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=24, word_embed_proj_dim=16)),
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def prepared(model: Model, **fields: object) -> Bottleneck:
    method = Bottleneck(BottleneckMethod(bottleneck_size=5, **fields))
    method.prepare(model, generator=seeded())
    return method


@torch.no_grad()
def shake(model: Model) -> None:
    for module in model.modules():
        if isinstance(module, BottleneckOutput):
            for parameter in module.parameters(recurse=False):
                parameter.add_(torch.randn(parameter.shape, generator=seeded()), alpha=0.2)


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize(("name", "function"), [("relu", F.relu), ("gelu", F.gelu), ("silu", F.silu)])
def test_what_is_added_is_u_f_d_h(name: str, function):
    torch.manual_seed(0)
    base = nn.Linear(3, 4)
    layer = BottleneckOutput(base, 4, BottleneckMethod(bottleneck_size=2, activation=name), generator=seeded())
    x = torch.randn(5, 3)
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.normal_()
    h = base(x)
    low = function(h @ layer.down_weight.T + layer.down_bias)
    torch.testing.assert_close(layer(x), h + low @ layer.up_weight.T + layer.up_bias)


def places(model: Model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, BottleneckOutput)]


def test_houlsby_stands_behind_both_halves_and_pfeiffer_behind_the_second(tiny_model_folder: Path):
    for placement, ends in (("houlsby", ("self_attn.o_proj", "mlp.down_proj")), ("pfeiffer", ("mlp.down_proj",))):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        prepared(model, placement=placement)
        assert places(model) == [f"model.layers.{layer}.{end}" for layer in (0, 1) for end in ends]


def test_the_adapter_stands_before_the_residual_addition(tiny_model: Model):
    prepared(tiny_model)
    layer = tiny_model.model.layers[1]
    with torch.no_grad():
        layer.mlp.down_proj.up_bias.fill_(1.0)
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tiny_model(input_ids=IDS)
    with torch.no_grad():
        layer.mlp.down_proj.up_bias.fill_(0.0)
    tiny_model(input_ids=IDS)
    torch.testing.assert_close(seen[0], seen[1] + 1)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("architecture", OTHERS)
def test_other_architectures_train_answer_and_come_back(tmp_path: Path, architecture: str, placement: str):
    torch.manual_seed(0)
    model, again = OTHERS[architecture]().eval(), OTHERS[architecture]().eval()
    again.load_state_dict(model.state_dict())
    base = logits(model)
    method = prepared(model, placement=placement)
    assert len(places(model)) == (4 if placement == "houlsby" else 2)
    assert torch.equal(logits(model), base)
    shake(model)
    changed = logits(model)
    assert (changed - base).norm() > 0.01 * base.norm()
    (tmp_path / "base").mkdir()
    method.export(model, tmp_path, base_model=BaseModelName("small", tmp_path / "base"))
    assert torch.equal(logits(load_bottleneck(again, tmp_path)), changed)
    answers = TorchEngine(model, pad_id=0).generate([[5, 6], [7]], max_new_tokens=3, stop_ids=frozenset())
    assert [len(answer.token_ids) for answer in answers] == [3, 3]


def test_gpt2_with_bottlenecks_takes_packed_rows():
    torch.manual_seed(0)
    model = OTHERS["gpt2"]().eval()
    prepared(model, placement="houlsby")
    shake(model)
    use_packed_attention(model)  # compares packed with plain logits itself


def test_an_architecture_whose_halves_are_not_found_is_refused_unchanged():
    config = MixtralConfig(**SMALL, intermediate_size=16, num_key_value_heads=1, num_local_experts=2)
    model = MixtralForCausalLM(config)
    with pytest.raises(UserError, match="feed-forward") as caught:
        prepared(model)
    assert caught.value.code == "stage-unsupported"
    assert places(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def written(tiny_model_folder: Path, tmp_path: Path) -> Path:
    model = load_model(tiny_model_folder, dtype=torch.float32)
    prepared(model).export(model, tmp_path, base_model=BaseModelName("tiny", tiny_model_folder))
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [("bottleneck_size", 6), ("placement", "houlsby"), ("activation", "tanh"), ("bottleneck_size", 0), ("scale", 2)],
)
def test_settings_that_do_not_fit_the_tensors_are_refused(tiny_model: Model, written: Path, field: str, value: object):
    config = json.loads((written / "adapter_config.json").read_text())
    (written / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(UserError) as caught:
        load_bottleneck(tiny_model, written)
    assert caught.value.code == "adapter-invalid"


@pytest.mark.parametrize("how", ["missing", "stray", "shape", "nan", "empty"])
def test_tensors_that_do_not_fit_are_refused(tiny_model: Model, written: Path, how: str):
    key = "model.layers.1.mlp.down_proj.up_bias"
    tensors = load_file(written / "adapter_model.safetensors")
    changes = {
        "stray": {"other": torch.zeros(1)},
        "shape": {key: torch.zeros(31)},
        "nan": {key: torch.zeros(32)},
    }
    tensors |= changes.get(how, {})
    if how == "nan":
        tensors[key][3] = float("nan")
    if how == "missing":
        del tensors[key]
    save_file({} if how == "empty" else tensors, written / "adapter_model.safetensors")
    with pytest.raises(UserError) as caught:
        load_bottleneck(tiny_model, written)
    assert caught.value.code == "adapter-invalid"


def test_values_that_are_not_finite_are_never_written(tiny_model: Model, tmp_path: Path):
    method = prepared(tiny_model)
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.down_proj.up_bias[0] = float("inf")
    with pytest.raises(UserError) as caught:
        method.export(tiny_model, tmp_path, base_model=BaseModelName("tiny", tmp_path))
    assert caught.value.code == "adapter-invalid"
    assert list(tmp_path.iterdir()) == []
