"""DoRA by its equations: the start, the lengths, the gradient and the merge; and the scaling of rsLoRA."""

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from kivnun.errors import UserError
from kivnun.methods.adapted_linear import DoraLinear, LoraLinear, lora_scaling
from kivnun.methods.lora import Lora, learning_rate_scales
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def dora_layer(num_in: int, num_out: int, rank: int, *, has_bias: bool = True, **fields: object) -> DoraLinear:
    """A layer with values of its own everywhere."""
    torch.manual_seed(0)
    layer = DoraLinear(
        nn.Linear(num_in, num_out, bias=has_bias), LoraMethod(rank=rank, use_dora=True, **fields), generator=seeded()
    )
    with torch.no_grad():
        layer.lora_B.normal_(generator=seeded())
        layer.lora_magnitude_vector.mul_(torch.rand(num_out) + 0.5)
    return layer


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    has_bias=st.booleans(),
    alpha=st.floats(0.1, 10),
)
def test_the_layer_is_the_plain_formula_with_lengths_held_constant(
    sizes: tuple[int, int, int], has_bias: bool, alpha: float
):
    num_in, num_out, rank = sizes
    layer = dora_layer(num_in, num_out, rank, has_bias=has_bias, alpha=alpha)
    x = torch.randn(2, 3, num_in, generator=seeded(), requires_grad=True)
    direction = layer.base.weight + alpha / rank * layer.lora_B @ layer.lora_A
    lengths = direction.norm(dim=1, keepdim=True).detach()
    # Of a row that its change nearly cancels, float32 keeps too few digits to divide by its length, in either order.
    assume(bool((lengths > 0.2 * layer.base.weight.norm(dim=1, keepdim=True)).all()))
    weight = layer.lora_magnitude_vector.unsqueeze(1) * direction / lengths
    expected = nn.functional.linear(x, weight, layer.base.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(layer.merged_weight(), weight, atol=1e-5, rtol=1e-4)
    inputs = (x, layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    pull = torch.randn(expected.shape, generator=seeded())
    ours, plain = (torch.autograd.grad(out, inputs, pull, retain_graph=True) for out in (layer(x), expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_the_lengths_need_no_matrix_of_the_weights_size():
    layer = dora_layer(40, 30, 4)
    expected = (layer.base.weight + layer.delta()).norm(dim=1)
    torch.testing.assert_close(layer.row_lengths(), expected, atol=1e-5, rtol=1e-5)


def test_the_magnitude_starts_as_the_lengths_of_the_rows():
    base = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    layer = DoraLinear(base, LoraMethod(rank=1, use_dora=True), generator=seeded())
    assert layer.lora_magnitude_vector.tolist() == [5.0, 2.0]


def test_a_bf16_base_keeps_a_float32_magnitude_and_answers_in_bf16(tiny_model_folder: Path):
    model = load_model(tiny_model_folder, dtype=torch.bfloat16)
    Lora(LoraMethod(rank=4, use_dora=True)).prepare(model, generator=seeded())
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer.lora_B.normal_(0, 0.5, generator=seeded())
        layer.lora_magnitude_vector.mul_(1.5)
    assert {parameter.dtype for parameter in layer.parameters(recurse=False)} == {torch.float32}
    x = torch.randn(50, 32, generator=seeded()).bfloat16()
    expected = x.float() @ layer.merged_weight().T
    assert layer(x).dtype == torch.bfloat16
    assert (layer(x).float() - expected).norm() <= 0.01 * expected.norm()


def test_rslora_scales_by_the_root_of_the_rank():
    assert lora_scaling(LoraMethod(rank=16, alpha=8)) == 0.5
    assert lora_scaling(LoraMethod(rank=16, alpha=8, use_rslora=True)) == 2.0


def test_dora_is_not_taken_for_lora(tiny_model: Model):
    Lora(LoraMethod(rank=4, use_dora=True)).prepare(tiny_model, generator=seeded())
    assert not any(isinstance(module, LoraLinear) for module in tiny_model.modules())


def test_only_b_learns_faster_and_only_where_a_ratio_is_set(tiny_model_folder: Path):
    for ratio in (1, 16):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        settings = LoraMethod(rank=4, target_modules=("q_proj",), learning_rate_ratio=ratio)
        Lora(settings).prepare(model, generator=seeded())
        names = [f"model.layers.{layer}.self_attn.q_proj.lora_B" for layer in (0, 1)]
        assert learning_rate_scales(model) == ({} if ratio == 1 else dict.fromkeys(names, 16))


@pytest.mark.parametrize(("targets", "side"), [("all-linear", "k_proj (16 x 32)"), (("up_proj",), "up_proj (64 x 32)")])
def test_a_rank_above_a_matrix_is_refused_naming_the_layer(tiny_model: Model, targets: str, side: str):
    before = [name for name, _ in tiny_model.named_parameters()]
    with pytest.raises(UserError) as caught:
        Lora(LoraMethod(rank=33, target_modules=targets)).prepare(tiny_model, generator=seeded())
    assert caught.value.code == "recipe-invalid"
    assert "method.rank: 33" in caught.value.problem
    assert side in caught.value.problem
    assert [name for name, _ in tiny_model.named_parameters()] == before
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


def test_the_highest_rank_is_the_smaller_side(tiny_model: Model):
    Lora(LoraMethod(rank=32, target_modules=("up_proj",))).prepare(tiny_model, generator=seeded())
