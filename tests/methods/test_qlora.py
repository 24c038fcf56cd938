"""QLoRA: LoRA on what the 4 bits stand for, without a dense weight; a LoRA folder comes out."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from kivnun.data.tokens import TokenTable
from kivnun.methods import BaseModelName, load_tuned, make_method, merge, trainable_names
from kivnun.methods.lora import Lora
from kivnun.methods.qlora import QloraLinear, quantized_low_rank_linear
from kivnun.methods.targets import find_targets
from kivnun.models.attention import use_packed_attention
from kivnun.models.late_imports import load_bitsandbytes, load_peft
from kivnun.models.load import load_model
from kivnun.models.quantize import QuantizedLinear, count_bytes
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod, QloraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

IDS = torch.arange(3, 23).view(2, 10)
FORMATS = [(kind, double) for kind in ("nf4", "fp4") for double in (True, False)]
OPTIONS = [
    {"use_rslora": True},
    {"use_dora": True},
    {"dropout": 0.3},
    {"use_dora": True, "dropout": 0.3},
    {"modules_to_save": ("lm_head",)},
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(model: Model, **fields: object) -> Model:
    """With its adapters given values, as a training would."""
    make_method(QloraMethod(**{"rank": 4, "alpha": 8, **fields})).prepare(model, generator=seeded())
    return shaken(model)


@torch.no_grad()
def shaken(model: Model) -> Model:
    generator = seeded(9)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.normal_(0, 0.5, generator=generator)
    return model


def dense_twin(model: Model, fresh: Model, **fields: object) -> Model:
    """Our LoRA on dense layers that hold what the 4 bits of `model` stand for."""
    settings = LoraMethod(**{"rank": 4, "alpha": 8, **fields})
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                fresh.get_submodule(name.removesuffix(".base")).weight.copy_(module.dequantize(torch.float32))
    Lora(settings).prepare(fresh, generator=seeded())
    return shaken(fresh)


def trained(model: Model, table: TokenTable, num_steps: int) -> list[float]:
    settings = TrainingSection(max_steps=num_steps, batch_tokens=100, learning_rate=0.01, precision="fp32")
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    return [report.loss for report in fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings))]


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_hand_derived_gradient_is_that_of_the_function(has_bias: bool):
    """In double precision, with the dequantised weight as the constant that it is."""
    layer = QuantizedLinear(nn.Linear(6, 4, bias=has_bias), quant_type="nf4", double_quant=True)
    weight = layer.dequantize(torch.float32).double()
    x, a, b = (torch.randn(s, generator=seeded(), dtype=torch.float64) for s in [(2, 3, 6), (2, 6), (4, 2)])
    bias = layer.bias.double() if layer.bias is not None else None
    inputs = (x.requires_grad_(), weight.to, bias, a.requires_grad_(), b.requires_grad_(), 0.7)
    assert torch.autograd.gradcheck(quantized_low_rank_linear, inputs)


@pytest.mark.parametrize("formats", [{"quant_type": kind, "double_quant": double} for kind, double in FORMATS], ids=str)
def test_five_steps_are_those_of_lora_in_every_format(
    tiny_model_folder: Path, tiny_table: TokenTable, formats: dict[str, object]
):
    require_lora_steps(tiny_model_folder, tiny_table, formats, {})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_five_steps_are_those_of_lora_with_every_option(
    tiny_model_folder: Path, tiny_table: TokenTable, options: dict[str, object]
):
    require_lora_steps(tiny_model_folder, tiny_table, {}, options)


def require_lora_steps(folder: Path, table: TokenTable, formats: dict[str, object], options: dict[str, object]) -> None:
    """Train beside LoRA on dense weights that hold what the 4 bits stand for."""
    ours = prepared(load_model(folder, dtype=torch.float32), **formats, **options)
    plain = dense_twin(ours, load_model(folder, dtype=torch.float32), **options)
    losses, expected = trained(ours, table, 5), trained(plain, table, 5)
    assert losses == pytest.approx(expected, rel=1e-4)
    wanted = dict(plain.named_parameters())
    assert trainable_names(ours) == trainable_names(plain)
    for name in trainable_names(ours):
        torch.testing.assert_close(ours.get_parameter(name), wanted[name], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ("lm_head",)}], ids=str)
def test_exactly_the_promised_weights_are_trained(
    tiny_model_folder: Path, tiny_table: TokenTable, dtype: torch.dtype, options: dict[str, object]
):
    model = prepared(load_model(tiny_model_folder, dtype=dtype), **options)
    before = {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    promised = {name for name, _ in model.named_parameters() if ".lora_" in name}
    promised |= {"lm_head.weight"} if "modules_to_save" in options else set()
    assert set(trainable_names(model)) == promised
    trained(model, tiny_table, 2)
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert {name for name, value in before.items() if not torch.equal(value, after[name])} == promised


def test_every_target_is_in_4_bits_and_nothing_else(tiny_model: Model):
    targets = find_targets(tiny_model, "all-linear")
    prepared(tiny_model)
    found = [name for name, module in tiny_model.named_modules() if isinstance(module, QuantizedLinear)]
    assert found == [f"{name}.base" for name in targets]
    assert not any(isinstance(module, nn.Linear) for name, module in tiny_model.named_modules() if name != "lm_head")


def test_the_seed_covers_the_start(tiny_model_folder: Path):
    starts = []
    for seed in (0, 0, 1):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        make_method(QloraMethod(rank=4)).prepare(model, generator=seeded(seed))
        starts.append(model.model.layers[1].mlp.up_proj.lora_A.detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_no_layer_keeps_a_dense_weight_for_the_backward_pass(tiny_model: Model):
    prepared(tiny_model).train()
    layer = tiny_model.model.layers[0].mlp.down_proj
    assert isinstance(layer, QloraLinear)
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(3, 64, requires_grad=True))
    assert {tuple(tensor.shape) for tensor in saved} == {(3, 64), (3, 4), (4, 64), (32, 4)}


def test_the_weights_shrink_by_the_factor_of_the_format(tiny_model_folder: Path):
    """Each adapted bf16 weight of 16 bits becomes 4.127; the rest and the adapters stay as they are."""
    sizes = {}
    for method in (LoraMethod(rank=2), QloraMethod(rank=2)):
        model = load_model(tiny_model_folder, dtype=torch.bfloat16)
        layers = [model.get_submodule(name) for name in find_targets(model, "all-linear")]
        num_weights = sum(layer.weight.numel() for layer in layers)
        make_method(method).prepare(model, generator=seeded())
        sizes[method.kind] = count_bytes(model)
    saved_bits = 8 * (sizes["lora"] - sizes["qlora"])
    # What does not shrink with the layer: the 256 values that 8 bits stand for, the mean, and a last block.
    constants = 8 * len(layers) * (4 * 257 + 8)
    assert (16 - 4.127) * num_weights - constants <= saved_bits <= (16 - 4.127) * num_weights


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_folder_is_a_lora_folder_for_us_and_for_peft(tiny_model_folder: Path, tmp_path: Path):
    base = BaseModelName("tiny", tiny_model_folder)
    settings = QloraMethod(rank=4, alpha=8)
    model = prepared(load_model(tiny_model_folder, dtype=torch.float32))
    make_method(settings).export(model, tmp_path, base_model=base)
    ours = load_tuned(tiny_model_folder, tmp_path, dtype=torch.float32)
    fresh = load_model(tiny_model_folder, dtype=torch.float32)
    theirs = load_peft().PeftModel.from_pretrained(copy.deepcopy(fresh), str(tmp_path)).eval()
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
        torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-4)
        assert (expected - fresh(input_ids=IDS).logits).norm() > 0.05 * expected.norm()
        # The full-precision base carries it: no 4-bit layer is left, and it merges.
        assert not any(isinstance(module, QuantizedLinear) for module in ours.modules())
        torch.testing.assert_close(merge(ours)(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-4)


def test_the_gradients_are_those_of_peft_on_bitsandbytes_layers():
    """On rows of whole blocks: with others, bitsandbytes' own layer computes another weight on a CPU."""
    peft, bnb = load_peft(), load_bitsandbytes()
    torch.manual_seed(0)
    dense = nn.Linear(128, 64)
    model = nn.Sequential(bnb.nn.Linear4bit(128, 64, compute_dtype=torch.float32, quant_type="nf4"))
    model[0].weight = bnb.nn.Params4bit(
        dense.weight.data.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    model[0].bias.data.copy_(dense.bias.data)
    model = model.to("cpu")
    theirs = peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"]), model)[0]
    ours = QloraLinear(dense, QloraMethod(rank=4, alpha=8), generator=seeded())
    with torch.no_grad():
        ours.lora_B.normal_(generator=seeded(1))
        theirs.lora_A["default"].weight.copy_(ours.lora_A)
        theirs.lora_B["default"].weight.copy_(ours.lora_B)
    optimizers = [torch.optim.AdamW(p, lr=0.01) for p in (ours.parameters(), theirs.parameters())]
    for step in range(5):
        x = torch.randn(8, 128, generator=seeded(step))
        outputs = []
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            inputs = x.clone().requires_grad_()
            y = layer(inputs)
            y.square().sum().backward()
            outputs.append((y.detach(), inputs.grad))
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.lora_A, theirs.lora_A["default"].weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.lora_B, theirs.lora_B["default"].weight, atol=1e-5, rtol=1e-4)
