"""4-bit layers by their equations: what 4 bits stand for, the frozen product and its gradient, the bytes."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.models.late_imports import load_bitsandbytes
from kivnun.models.quantize import QuantizedLinear, count_bytes, count_parameters, quantize_layers

FORMATS = [(kind, double) for kind in ("nf4", "fp4") for double in (True, False)]


def seeded_linear(num_out: int, num_in: int, *, dtype: torch.dtype = torch.float32, has_bias: bool = True) -> nn.Linear:
    torch.manual_seed(num_out * 1000 + num_in)
    return nn.Linear(num_in, num_out, bias=has_bias, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("quant_type", "double_quant"), FORMATS)
def test_the_4_bits_stand_for_what_bitsandbytes_says(quant_type: str, double_quant: bool, dtype: torch.dtype):
    linear = seeded_linear(96, 128, dtype=dtype)
    functional = load_bitsandbytes().functional
    packed, state = functional.quantize_4bit(
        linear.weight.data, quant_type=quant_type, compress_statistics=double_quant
    )
    layer = QuantizedLinear(linear, quant_type=quant_type, double_quant=double_quant)
    assert torch.equal(layer.weight_4bit, packed)
    assert torch.equal(layer.dequantize(dtype), functional.dequantize_4bit(packed, state))
    x = torch.randn(3, 128, dtype=dtype)
    expected = F.linear(x, functional.dequantize_4bit(packed, state), linear.bias)
    assert torch.equal(layer(x), expected)


@settings(max_examples=40)
@example(shape=(7, 96), quant_type="nf4")
@example(shape=(5, 32), quant_type="fp4")
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 200)), quant_type=st.sampled_from(["nf4", "fp4"]))
def test_every_shape_is_rounded_within_a_step_of_its_block(shape: tuple[int, int], quant_type: str):
    """Also where rows hold no whole number of blocks, for which bitsandbytes' own layer computes nonsense on a CPU."""
    linear = seeded_linear(*shape)
    with torch.no_grad():  # rows of many sizes, so that a block with its neighbour's scale shows
        linear.weight.mul_(10 ** torch.linspace(-2, 2, shape[0]).roll(1).unsqueeze(1))
    layer = QuantizedLinear(linear, quant_type=quant_type, double_quant=False)
    flat = linear.weight.detach().flatten()
    scales = torch.stack([block.abs().max() for block in flat.split(64)]).repeat_interleave(64)[: len(flat)]
    error = (layer.dequantize(torch.float32).flatten() - flat).abs() / scales
    # Half the widest gap between two of the 16 values: 1 - 0.7 of nf4, and 1 - 2/3 of fp4.
    assert float(error.max()) <= (0.153 if quant_type == "nf4" else 0.167)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_the_dense_weight(dtype: torch.dtype, has_bias: bool):
    layer = QuantizedLinear(seeded_linear(24, 40, dtype=dtype, has_bias=has_bias), quant_type="nf4", double_quant=True)
    ours, plain = (torch.randn(2, 5, 40, dtype=dtype, generator=seeded()).requires_grad_() for _ in range(2))
    grad = torch.randn(2, 5, 24, dtype=dtype, generator=seeded())
    layer(ours).backward(grad)
    F.linear(plain, layer.dequantize(dtype), layer.bias).backward(grad)
    torch.testing.assert_close(ours.grad, plain.grad)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_no_dense_weight_is_kept_for_the_backward_pass():
    layer = QuantizedLinear(seeded_linear(64, 128), quant_type="nf4", double_quant=True)
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(4, 128, requires_grad=True))
    assert sum(tensor.numel() for tensor in saved) <= 4 * 128


@pytest.mark.parametrize(("double_quant", "bits"), [(True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4.5)])
def test_a_weight_takes_as_many_bits_as_the_format_says(double_quant: bool, bits: float):
    layer = QuantizedLinear(seeded_linear(512, 1024, has_bias=False), quant_type="nf4", double_quant=double_quant)
    constants = 4 * (256 + 1) if double_quant else 0
    assert count_bytes(layer) - constants == 512 * 1024 * bits / 8
    assert count_parameters(layer) == 512 * 1024


def test_a_model_without_weights_has_the_same_bytes():
    real = nn.Sequential(seeded_linear(70, 50), seeded_linear(30, 70))
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(50, 70), nn.Linear(70, 30))
    for model in (empty, real):
        quantize_layers(model, ["0"], quant_type="nf4", double_quant=True)
    assert count_bytes(real) == count_bytes(empty)
    assert count_parameters(real) == count_parameters(empty) == 70 * 50 + 70 + 30 * 70 + 30
    # And the real one still computes, after the empty one was there first.
    assert bool(real(torch.randn(2, 50)).isfinite().all())


def test_a_copy_and_a_mode_are_those_of_a_module():
    model = nn.Sequential(seeded_linear(8, 16)).eval()
    quantize_layers(model, ["0"], quant_type="fp4", double_quant=True)
    assert not model[0].training
    x = torch.randn(2, 16)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    assert [parameter.requires_grad for parameter in model.parameters()] == [False]
