"""Master weights and their optimizers against torch's own and against exact sums."""

import pytest
import torch
from torch import nn

from kivnun.methods import learning_rate_scales, make_method, vector_names
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import Ia3Method, LoraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.adamw_8bit import AdamW8bit
from kivnun.training.optimizer import MasterWeights, make_master_weights


def settings(**fields: object) -> TrainingSection:
    return TrainingSection(**{"learning_rate": 0.01, **fields})


def give_gradients(weights: MasterWeights, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in weights.parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    weights.collect_gradients()


def test_a_thousand_updates_too_small_for_bf16_are_not_lost():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    weights = make_master_weights(model, settings())
    for _ in range(1000):
        model.weight.grad = torch.ones_like(model.weight)
        weights.collect_gradients()
        weights.step(1e-4)  # 1 - 1e-4 is 1 in bf16
    assert float(weights.masters["weight"].detach()) == pytest.approx(0.9, abs=1e-4)
    assert float(model.weight.detach()) == pytest.approx(0.9, abs=2**-8)


def test_micro_batch_gradients_are_summed_in_float32():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    weights = make_master_weights(model, settings())
    for value in (256.0, *[0.5] * 8):
        model.weight.grad = torch.full_like(model.weight, value)
        weights.collect_gradients()
        assert model.weight.grad is None
    assert float(weights.masters["weight"].grad) == 260.0


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_in_fp32_is_torchs_own(tiny_model: Model, tiny_model_folder, decay: float):
    reference = load_model(tiny_model_folder, dtype=torch.float32)
    weights = make_master_weights(tiny_model, settings(betas=(0.8, 0.95), weight_decay=decay))
    matrices = [value for value in reference.parameters() if value.ndim == 2]
    vectors = [value for value in reference.parameters() if value.ndim == 1]
    assert vectors
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.95))
    named = dict(reference.named_parameters())
    for step in range(4):
        give_gradients(weights, step)
        for name, parameter in weights.parameters.items():
            named[name].grad = parameter.grad.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        weights.step(0.01 / (step + 1))
        optimizer.step()
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter, named[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decay_alone_shrinks_matrices_and_never_vectors(tiny_model: Model, optimizer: str):
    before = {name: value.detach().clone() for name, value in tiny_model.named_parameters()}
    weights = make_master_weights(tiny_model, settings(weight_decay=0.5, optimizer=optimizer))
    for parameter in weights.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    weights.collect_gradients()
    weights.step(0.1)
    for name, value in tiny_model.named_parameters():
        factor = 0.95 if value.ndim == 2 else 1.0
        torch.testing.assert_close(value.detach(), before[name] * factor)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_named_a_vector_has_no_decay_though_it_is_written_as_a_matrix(optimizer: str):
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Module()])
    for name in ("scale", "column"):
        model.layers[0].register_parameter(name, nn.Parameter(torch.ones(6, 1)))
    weights = make_master_weights(model, settings(weight_decay=0.5, optimizer=optimizer), vectors=["layers.0.scale"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights.step(0.1)
    assert torch.equal(model.layers[0].scale, torch.ones(6, 1))
    torch.testing.assert_close(model.layers[0].column.detach(), torch.full((6, 1), 0.95))
    algorithms = {type(each).__name__ for each in weights.optimizers}
    assert algorithms == ({"AdamW"} if optimizer == "adamw" else {"AdamW", "Muon"})
    with pytest.raises(KeyError, match=r"layers\.0\.scales"):
        make_master_weights(model, settings(), vectors=["layers.0.scales"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adapters_of_rank_one_are_decayed_and_the_scales_of_ia3_are_not(tiny_model_folder, optimizer: str):
    for method, decays in ((LoraMethod(rank=1, alpha=2), True), (Ia3Method(), False)):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        make_method(method).prepare(model, generator=torch.Generator().manual_seed(0))
        chosen = settings(weight_decay=0.1, optimizer=optimizer)
        weights = make_master_weights(model, chosen, learning_rate_scales(model), vector_names(model))
        groups = [group for each in weights.optimizers for group in each.param_groups]
        assert {group["weight_decay"] for group in groups} == {0.1 if decays else 0.0}
        names = {type(each).__name__ for each in weights.optimizers}
        assert names == ({"Muon"} if decays and optimizer == "muon" else {"AdamW"})


def test_muon_gets_the_hidden_matrices_and_adamw_the_rest(tiny_model: Model):
    weights = make_master_weights(tiny_model, settings(optimizer="muon"))
    names = {value: name for name, value in weights.masters.items()}
    held = {
        type(optimizer).__name__: {names[value] for group in optimizer.param_groups for value in group["params"]}
        for optimizer in weights.optimizers
    }
    everything = {name for name, _ in tiny_model.named_parameters()}
    assert held["Muon"] == {name for name in everything if "_proj" in name}
    assert held["AdamW"] == {name for name in everything if "_proj" not in name}
    assert "model.embed_tokens.weight" in held["AdamW"]


def test_a_muon_step_is_as_large_as_one_of_adamw(tiny_model: Model):
    """`match_rms_adamw`: every update's root mean square is 0.2 of the learning rate."""
    weights = make_master_weights(tiny_model, settings(optimizer="muon"))
    before = tiny_model.model.layers[0].mlp.up_proj.weight.detach().clone()
    give_gradients(weights, 0)
    weights.step(0.01)
    update = tiny_model.model.layers[0].mlp.up_proj.weight.detach() - before
    assert float(update.square().mean().sqrt()) == pytest.approx(0.002, rel=0.25)


@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1e6])
def test_gradients_are_scaled_and_then_clipped_to_one_global_norm(tiny_model: Model, max_norm: float):
    weights = make_master_weights(tiny_model, settings())
    give_gradients(weights, 0)
    before = torch.cat([value.grad.flatten().double() for value in weights.masters.values()])
    norm = weights.scale_and_clip(0.25, max_norm)
    after = torch.cat([value.grad.flatten().double() for value in weights.masters.values()])
    assert norm == pytest.approx(float(before.norm()) / 4, rel=1e-5)
    assert settings(max_grad_norm=max_norm).max_grad_norm == max_norm
    torch.testing.assert_close(after, before / 4 * min(1.0, (max_norm or norm) / norm), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_state_goes_on_bit_for_bit(tiny_model_folder, optimizer: str, dtype: torch.dtype):
    models = [load_model(tiny_model_folder, dtype=dtype) for _ in range(2)]
    straight, resumed = (make_master_weights(model, settings(optimizer=optimizer)) for model in models)
    for step in range(3):
        give_gradients(straight, step)
        straight.step(0.01)
    flat = {name: tensor.clone() for name, tensor in straight.tensors().items()}
    resumed.load_tensors(flat)
    for step in range(3, 6):
        for weights in (straight, resumed):
            give_gradients(weights, step)
            weights.step(0.01)
    one, other = straight.tensors(), resumed.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(*pair) for pair in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert not any(torch.equal(one[name], flat[name]) for name in one)


def test_frozen_weights_have_no_master(tiny_model: Model):
    tiny_model.requires_grad_(requires_grad=False)
    tiny_model.model.norm.weight.requires_grad_()
    assert list(make_master_weights(tiny_model, settings()).masters) == ["model.norm.weight"]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "muon"])
def test_a_scaled_parameter_learns_as_if_the_rate_were_that_many_times_higher(tiny_model_folder, optimizer: str):
    """LoRA+ (Hayou et al. 2024): B's learning rate is a multiple of A's; decay is scaled with it."""
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    chosen = settings(optimizer=optimizer, weight_decay=0.1)
    scaled, plain, faster = (load_model(tiny_model_folder, dtype=torch.float32) for _ in range(3))
    for model, scales, rate in ((scaled, {name: 16.0}, 0.001), (plain, {}, 0.001), (faster, {}, 0.016)):
        weights = make_master_weights(model, chosen, scales)
        for step in range(3):
            give_gradients(weights, step)
            weights.step(rate)
    assert torch.equal(scaled.get_parameter(name), faster.get_parameter(name))
    assert torch.equal(scaled.get_parameter(other), plain.get_parameter(other))
    assert not torch.equal(scaled.get_parameter(name), plain.get_parameter(name))


def test_a_scale_for_what_is_not_trained_is_an_error(tiny_model: Model):
    tiny_model.lm_head.weight.requires_grad_(requires_grad=False)
    with pytest.raises(KeyError, match="not trained: lm_head"):
        make_master_weights(tiny_model, settings(), {"lm_head.weight": 2.0, "lm_head_of_another": 3.0})


def large_and_small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 200), nn.Tanh(), nn.Linear(200, 3))


def descend(model: nn.Module, optimizer: str, *, steps: int) -> tuple[MasterWeights, list[float]]:
    weights = make_master_weights(model, settings(optimizer=optimizer, weight_decay=0.01))
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(64, 96, generator=generator), torch.randn(64, 3, generator=generator)
    losses = []
    for _ in range(steps):
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        weights.step(0.003)
        losses.append(float(loss.detach()))
    return weights, losses


def test_adamw_in_8_bits_learns_like_adamw_with_a_quarter_of_the_state():
    exact, exact_losses = descend(large_and_small(), "adamw", steps=50)
    small, losses = descend(large_and_small(), "adamw_8bit", steps=50)
    assert exact_losses[-1] < exact_losses[0] / 5
    assert losses == pytest.approx(exact_losses, rel=0.05, abs=0.002)
    states = [weights.tensors() for weights in (exact, small)]
    num_bytes = [
        sum(value.nbytes for key, value in state.items() if key.startswith("optimizer.0.weight.")) for state in states
    ]
    assert num_bytes[1] / num_bytes[0] == pytest.approx(0.25, abs=0.01)


def test_small_tensors_keep_exact_averages_beside_8_bit_ones(tiny_model: Model):
    weights = make_master_weights(tiny_model, settings(optimizer="adamw_8bit"))
    held = {
        type(optimizer): [value.numel() for group in optimizer.param_groups for value in group["params"]]
        for optimizer in weights.optimizers
    }
    assert min(held[AdamW8bit]) > 4096 >= max(held[torch.optim.AdamW])
    assert sum(map(len, held.values())) == len(weights.masters)


def test_8_bit_averages_are_those_of_adamw_within_half_a_step_of_the_map():
    """One step from zero: m = (1 - b1) g and v = (1 - b2) g^2, each rounded within its block of 256."""
    model = nn.Linear(96, 200, bias=False)
    weights = make_master_weights(model, settings(optimizer="adamw_8bit"))
    before = model.weight.detach().clone()
    give_gradients(weights, 0)
    gradient = model.weight.grad.clone()
    weights.step(0.01)
    # The first update is computed before anything is rounded: every weight moves by the learning rate.
    torch.testing.assert_close(model.weight.detach(), before - 0.01 * gradient.sign(), atol=1e-5, rtol=1e-4)
    from bitsandbytes.functional import dequantize_blockwise

    state = weights.optimizers[0].state[model.weight]
    for name, expected, has_sign in (("exp_avg", 0.1 * gradient, True), ("exp_avg_sq", 0.001 * gradient**2, False)):
        from bitsandbytes.functional import create_dynamic_map

        code = create_dynamic_map(signed=has_sign)
        kept = dequantize_blockwise(state[f"{name}_codes"], absmax=state[f"{name}_scales"], code=code, blocksize=256)
        gap = float(code.diff().max()) / 2
        scale = expected.flatten().reshape(-1, 256).abs().amax(1).repeat_interleave(256).reshape(expected.shape)
        assert bool(((kept - expected).abs() <= gap * scale * 1.01).all())
