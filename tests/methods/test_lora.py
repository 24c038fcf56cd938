"""LoRA by its equations: the start, the gradient, the update, the merge, and which weights move."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.methods import BaseModelName, make_method, trainable_names
from kivnun.methods.dropped_low_rank import dropped_low_rank_linear
from kivnun.methods.lora import Lora, LoraLinear, find_targets, load_adapter, merge_adapters
from kivnun.methods.low_rank import low_rank_linear
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

IDS = torch.arange(3, 23).view(2, 10)
TINY = BaseModelName("tiny", Path("no-folder"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(model: Model, seed: int = 0, **fields: object) -> Lora:
    method = Lora(LoraMethod(**{"rank": 4, "alpha": 8, **fields}))
    method.prepare(model, generator=seeded(seed))
    return method


def shake(model: Model) -> None:
    """Give every B values, as a training would."""
    generator = seeded(9)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.lora_B.normal_(0, 0.5, generator=generator)


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model(input_ids=IDS).logits


def adapter_folder(model: Model, folder: Path, **fields: object) -> Path:
    """An adapter with values, written by us."""
    method = prepared(model, **fields)
    shake(model)
    folder.mkdir()
    method.export(model, folder, base_model=TINY)
    return folder


@pytest.fixture
def written(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """An adapter folder that a test may damage."""
    return adapter_folder(load_model(tiny_model_folder, dtype=torch.float32), tmp_path / "adapter", dropout=0.25)


def test_an_untrained_adapter_is_the_base_model_exactly(tiny_model: Model):
    before = logits(tiny_model)
    prepared(tiny_model)
    assert torch.equal(logits(tiny_model), before)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_hand_derived_gradient_is_that_of_the_function(has_bias: bool):
    generator = seeded()
    x, w, a, b = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(2, 3, 5), (4, 5), (2, 5), (4, 2)]
    )
    bias = torch.randn(4, generator=generator, dtype=torch.float64) if has_bias else None
    inputs = (x.requires_grad_(), w, bias, a.requires_grad_(), b.requires_grad_(), 0.7)
    assert torch.autograd.gradcheck(low_rank_linear, inputs)


@pytest.mark.parametrize("has_bias", [True, False])
def test_so_is_that_of_an_update_with_an_input_of_its_own(has_bias: bool):
    generator = seeded()
    x, d, w, a, b = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(2, 3, 5), (2, 3, 5), (4, 5), (2, 5), (4, 2)]
    )
    bias = torch.randn(4, generator=generator, dtype=torch.float64) if has_bias else None
    inputs = (x.requires_grad_(), d.requires_grad_(), w, bias, a.requires_grad_(), b.requires_grad_(), 0.7)
    assert torch.autograd.gradcheck(dropped_low_rank_linear, inputs)
    expected = F.linear(x, w, bias) + 0.7 * (d @ a.T) @ b.T
    torch.testing.assert_close(dropped_low_rank_linear(*inputs), expected)


@given(
    lead=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    has_bias=st.booleans(),
    scaling=st.floats(0.01, 10),
)
def test_the_layer_is_the_plain_formula(lead: list[int], sizes: tuple[int, int, int], has_bias: bool, scaling: float):
    num_in, num_out, rank = sizes
    generator = seeded()
    base = nn.Linear(num_in, num_out, bias=has_bias, dtype=torch.float64)
    layer = LoraLinear(base, LoraMethod(rank=rank, alpha=scaling * rank), generator=generator).double()
    with torch.no_grad():
        layer.lora_B.normal_(generator=generator)
    x = torch.randn(*lead, num_in, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*lead, num_out, generator=generator, dtype=torch.float64)
    inputs = (x, layer.lora_A, layer.lora_B)
    y = layer(x)
    expected = F.linear(x, base.weight, base.bias) + scaling * ((x @ layer.lora_A.T) @ layer.lora_B.T)
    torch.testing.assert_close(y, expected)
    ours, plain = (torch.autograd.grad(out, inputs, weight, retain_graph=True) for out in (y, expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_the_update_is_alpha_over_rank_times_b_a():
    layer = LoraLinear(nn.Linear(2, 3, bias=False), LoraMethod(rank=2, alpha=6), generator=seeded())
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.lora_B.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
    assert layer.delta().tolist() == [[3.0, 6.0], [9.0, 12.0], [-6.0, -6.0]]


def test_merging_changes_no_answer_and_leaves_no_adapter(tiny_model: Model):
    names = [name for name, _ in tiny_model.named_parameters()]
    base = logits(tiny_model)
    prepared(tiny_model)
    shake(tiny_model)
    adapted = logits(tiny_model)
    assert (adapted - base).norm() > 0.1 * base.norm()
    merge_adapters(tiny_model)
    torch.testing.assert_close(logits(tiny_model), adapted, atol=1e-5, rtol=1e-4)
    assert [name for name, _ in tiny_model.named_parameters()] == names


def test_a_bf16_base_keeps_float32_factors_and_is_merged_through_float32(tiny_model_folder: Path):
    model = load_model(tiny_model_folder, dtype=torch.bfloat16)
    base = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    prepared(model)
    shake(model)
    layer = model.model.layers[0].mlp.up_proj
    assert (layer.lora_A.dtype, layer.lora_B.dtype, layer(torch.ones(1, 32).bfloat16()).dtype) == (
        torch.float32,
        torch.float32,
        torch.bfloat16,
    )
    expected = (base.double() + 2.0 * layer.lora_B.double() @ layer.lora_A.double()).bfloat16()
    merge_adapters(model)
    merged = model.model.layers[0].mlp.up_proj.weight
    assert (merged.double() - expected.double()).abs().max() <= 2**-8 * expected.double().abs().max()


def train_three_steps(model: Model, table: TokenTable) -> None:
    settings = TrainingSection(max_steps=3, batch_tokens=100, learning_rate=0.01, precision="fp32")
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    list(fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("layers.1.mlp.down_proj",), "all-linear"])
def test_exactly_the_adapter_is_trained(tiny_model_folder: Path, tiny_table: TokenTable, targets, dtype: torch.dtype):
    model = load_model(tiny_model_folder, dtype=dtype)
    prepared(model, target_modules=targets)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    promised = {name for name in before if ".lora_" in name}
    assert set(trainable_names(model)) == promised
    train_three_steps(model, tiny_table)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == promised


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_training_changes_every_weight(tiny_model_folder: Path, tiny_table: TokenTable, dtype: torch.dtype):
    model = load_model(tiny_model_folder, dtype=dtype)
    make_method(FullMethod()).prepare(model, generator=seeded())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train_three_steps(model, tiny_table)
    unchanged = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []


def test_all_linear_is_every_linear_layer_but_the_head(tiny_model: Model):
    per_layer = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    found = find_targets(tiny_model, "all-linear")
    assert sorted(name.rpartition(".")[2] for name in found) == sorted(per_layer * 2)


def test_a_target_matches_whole_parts_of_a_name_only(tiny_model: Model):
    assert find_targets(tiny_model, ("mlp.up_proj",)) == [f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1)]
    assert find_targets(tiny_model, ("model.layers.1.self_attn.q_proj",)) == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("targets", [("nothing",), ("q_proj", "proj"), ("lm_head",), ("mlp",), ("_proj",)])
def test_a_target_that_matches_nothing_is_refused_listing_what_there_is(tiny_model: Model, targets: tuple[str, ...]):
    with pytest.raises(UserError, match=targets[-1]) as caught:
        prepared(tiny_model, target_modules=targets)
    assert caught.value.code == "target-modules"
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in caught.value.hint


def test_the_seed_covers_the_adapter(tiny_model_folder: Path):
    models = [load_model(tiny_model_folder, dtype=torch.float32) for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (5, 5, 6), strict=True):
        prepared(model, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (model.model.layers[0].mlp.up_proj.lora_A.detach() for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.abs().max() <= 1 / 32**0.5
    assert one.std() == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.2)  # uniform on +-1/sqrt(I)


def test_dropout_is_drawn_in_training_only_and_keeps_the_mean(tiny_model: Model):
    prepared(tiny_model, dropout=0.5)
    shake(tiny_model)
    layer = tiny_model.model.layers[0].mlp.up_proj
    x = torch.ones(4000, 32)
    assert torch.equal(layer(x), layer(x))
    still = layer(x).mean(0)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer(x).mean(0), still, atol=0.1, rtol=0.1)
    # The base layer's part never has dropout.
    with torch.no_grad():
        layer.lora_B.zero_()
    assert torch.equal(layer(x), layer.base(x))


def test_an_adapter_comes_back_as_it_was_written(tiny_model_folder: Path, written: Path):
    again = load_adapter(load_model(tiny_model_folder, dtype=torch.float32), written)
    layers = [module for module in again.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 14
    assert {(layer.scaling, layer.dropout, len(layer.lora_A), layer.training) for layer in layers} == {
        (2.0, 0.25, 4, False)
    }
    original = load_model(tiny_model_folder, dtype=torch.float32)
    prepared(original)
    shake(original)
    assert torch.equal(logits(again), logits(original))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", "yes"),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["lm_head"]),
        ("modules_to_save", "lm_head"),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("lora_bias", True),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"),
        ("a_feature_of_tomorrow", {"on": True}),
        ("peft_type", "IA3"),
        ("r", 5),
        ("r", "many"),
        ("lora_alpha", None),
        ("lora_dropout", 1.5),
    ],
)
def test_an_adapter_that_asks_for_more_than_we_compute_is_refused(
    tiny_model: Model, written: Path, field: str, value: object
):
    config = json.loads((written / "adapter_config.json").read_text())
    (written / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    before = logits(tiny_model)
    with pytest.raises(UserError) as caught:
        load_adapter(tiny_model, written)
    assert caught.value.code == "adapter-invalid"
    assert torch.equal(logits(tiny_model), before)


KEY = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"


def spoil(tensors: dict[str, torch.Tensor], how: str) -> None:
    if how == "missing":
        del tensors[KEY]
    elif how == "stray":
        tensors["base_model.model.model.layers.7.mlp.up_proj.lora_B.weight"] = torch.zeros(64, 4)
    elif how == "whole weight":
        tensors["base_model.model.lm_head.weight"] = torch.zeros(400, 32)
    elif how == "shape":
        tensors[KEY] = torch.zeros(63, 4)
    elif how == "empty":
        tensors.clear()
    else:
        tensors[KEY][0, 0] = float(how)


@pytest.mark.parametrize("how", ["missing", "stray", "whole weight", "shape", "empty", "nan", "inf"])
def test_adapter_matrices_that_do_not_fit_are_refused(tiny_model: Model, written: Path, how: str):
    tensors = load_file(written / "adapter_model.safetensors")
    spoil(tensors, how)
    save_file(tensors, written / "adapter_model.safetensors")
    before = logits(tiny_model)
    with pytest.raises(UserError) as caught:
        load_adapter(tiny_model, written)
    assert caught.value.code == "adapter-invalid"
    assert torch.equal(logits(tiny_model), before)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_adapter_folder_is_refused(tiny_model: Model, written: Path, tmp_path: Path, name: str, how: str):
    folder = shutil.copytree(written, tmp_path / "damaged")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if how == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError) as caught:
        load_adapter(tiny_model, folder)
    assert caught.value.code == "adapter-invalid"


def test_values_that_are_not_finite_are_never_written(tiny_model: Model, tmp_path: Path):
    method = prepared(tiny_model)
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.up_proj.lora_B[0, 0] = float("nan")
    with pytest.raises(UserError) as caught:
        method.export(tiny_model, tmp_path, base_model=TINY)
    assert caught.value.code == "adapter-invalid"
    assert list(tmp_path.iterdir()) == []
