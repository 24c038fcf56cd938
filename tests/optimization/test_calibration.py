"""GPTQ and AWQ: the papers' equations as equalities, and graphs that hold exactly the values that were chosen."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime_genai.models.loaders.quant_model import QuantModel
from safetensors.torch import load_file
from tiny_llama import load_tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from kivnun.errors import UserError
from kivnun.optimization.awq import round_clipped, scale_candidates, search_scales
from kivnun.optimization.calibration import MAX_TOKENS, calibrate
from kivnun.optimization.decoder_inputs import (
    ARCHITECTURES,
    InputStatistics,
    observe,
    pass_on,
    read_layer,
    start_rows,
)
from kivnun.optimization.forms import Form
from kivnun.optimization.gptq import DAMPENING, inverse_factor, round_gptq
from kivnun.optimization.gptq_checkpoint import pack
from kivnun.optimization.onnx import export_onnx
from kivnun.optimization.rounding import (
    MIN_SCALE,
    Grid,
    Rounded,
    Scheme,
    fit_grid,
    fit_weighted_grid,
    output_error,
    round_to_nearest,
)

GROUP_SIZES = (16, 32, 128)
SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MODEL_TYPES = {
    "LlamaForCausalLM": {"model_type": "llama", "attention_bias": True},
    "MistralForCausalLM": {"model_type": "mistral", "sliding_window": None},
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "Phi3ForCausalLM": {"model_type": "phi3", "original_max_position_embeddings": 64},
    "GemmaForCausalLM": {"model_type": "gemma"},
    "Gemma2ForCausalLM": {"model_type": "gemma2"},
    "Gemma3ForCausalLM": {
        "model_type": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
    },
}


def make_layer(num_outputs: int = 24, num_inputs: int = 256, num_tokens: int = 600):
    """A matrix with a few large weights, and correlated inputs of which some are far larger than others."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(num_outputs, num_inputs, generator=generator, dtype=torch.float64)
    weight[::3, ::17] *= 6
    x = torch.randn(num_tokens, num_inputs, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(num_inputs, num_inputs, generator=generator, dtype=torch.float64) / 16 + 0.3 * x
    x[:, ::29] *= 20
    return weight, x


def make_model(architecture: str):
    """A tiny random model whose norms and biases are not what they are at the start, when a fold would not show."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(**SMALL, **MODEL_TYPES[architecture])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert type(model).__name__ == architecture
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def make_rows(vocabulary: int = 128, number: int = 24) -> list[list[int]]:
    return [[(7 * row + 13 * place * (row + 1)) % vocabulary for place in range(3 + row % 5)] for row in range(number)]


def code_error(rounded: Rounded, weight, x) -> float:
    """The square error of the outputs, from the inputs themselves."""
    return float(((rounded.weights().double() - weight) @ x.T).square().sum())


# GPTQ


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_gptq_changes_a_layers_outputs_less_than_rounding_to_nearest(group_size: int):
    weight, x = make_layer()
    scheme = Scheme(group_size)
    hessian = 2 * x.T @ x
    rounded, nearest = round_gptq(weight, hessian, scheme), round_to_nearest(weight, scheme)
    assert code_error(rounded, weight, x) < 0.5 * code_error(nearest, weight, x)
    searched = fit_weighted_grid(weight.unflatten(1, (-1, group_size)), hessian.diagonal().view(-1, group_size), scheme)
    codes = searched.encode(weight.unflatten(1, (-1, group_size))).flatten(1).to(torch.uint8)
    assert code_error(rounded, weight, x) < code_error(Rounded(codes, searched), weight, x)


def test_gptq_is_optimal_brain_quantization_with_columns_in_order():
    # Frantar et al. 2022, equations 2 and 3: round a weight, let all that are left make up for it, and take its row
    # and column out of the inverse. The Cholesky factor and the blocks only spare the arithmetic.
    weight, x = make_layer()
    hessian, scheme = 2 * x.T @ x, Scheme(32)
    rounded = round_gptq(weight, hessian, scheme)
    damped = hessian + DAMPENING * hessian.diagonal().mean() * torch.eye(256, dtype=torch.float64)
    inverse, rest, importance = torch.linalg.inv(damped), weight.clone(), damped.diagonal()
    for column in range(256):
        if column % 32 == 0:
            group = slice(column, column + 32)
            grid = fit_weighted_grid(rest[:, None, group], importance[None, group], scheme)
        code = grid.encode(rest[:, column, None, None])
        assert torch.equal(code[:, 0, 0].to(torch.uint8), rounded.codes[:, column]), column
        lost = (rest[:, column] - grid.decode(code)[:, 0, 0]) / inverse[column, column]
        rest -= lost[:, None] * inverse[column]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column].clone()


def test_inputs_that_have_nothing_to_do_with_each_other_cannot_make_up_for_each_other():
    weight, _ = make_layer()
    rounded = round_gptq(weight, torch.eye(256, dtype=torch.float64), Scheme(32))
    grid = fit_weighted_grid(weight.unflatten(1, (-1, 32)), torch.ones(8, 32), Scheme(32))
    assert torch.equal(rounded.codes, grid.encode(weight.unflatten(1, (-1, 32))).flatten(1).to(torch.uint8))


def test_the_factor_is_that_of_the_dampened_inverse():
    _, x = make_layer()
    hessian = 2 * x.T @ x
    factor = inverse_factor(hessian)
    damped = hessian + DAMPENING * hessian.diagonal().mean() * torch.eye(256, dtype=torch.float64)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(256, dtype=torch.float64), rtol=0, atol=1e-9)


def test_matrices_that_read_one_input_are_rounded_as_if_each_were_alone():
    weight, x = make_layer()
    hessian = 2 * x.T @ x
    whole, part = (round_gptq(each, hessian, Scheme(32)) for each in (weight, weight[8:16]))
    assert torch.equal(whole.rows(8, 16).codes, part.codes)
    assert torch.equal(whole.rows(8, 16).weights(), part.weights())


def test_an_input_that_is_always_zero_keeps_its_weights_rounded_to_nearest():
    weight, x = make_layer()
    x[:, 40] = 0
    rounded = round_gptq(weight, 2 * x.T @ x, Scheme(32))
    assert bool(rounded.weights().isfinite().all())
    own = Grid(rounded.grid.scales[:, 1:2], rounded.grid.zeros[:, 1:2]).encode(weight[:, 40, None, None])
    assert torch.equal(rounded.codes[:, 40], own[:, 0, 0].to(torch.uint8))


def test_a_single_token_and_none_at_all_are_enough_for_an_inverse():
    weight, x = make_layer()
    scheme = Scheme(32)
    one = x[:1]
    assert code_error(round_gptq(weight, 2 * one.T @ one, scheme), weight, one) < code_error(
        round_to_nearest(weight, scheme), weight, one
    )
    assert bool(round_gptq(weight, torch.zeros(256, 256), scheme).weights().isfinite().all())


# AWQ


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_awq_changes_a_layers_outputs_less_than_rounding_to_nearest(group_size: int):
    weight, x = make_layer()
    scheme, hessian = Scheme(group_size), 2 * x.T @ x
    scales = search_scales(weight, hessian, scale_candidates(x.abs().mean(0), lambda each: each), scheme)
    assert float(scales.max() / scales.min()) > 1.5
    scaled, scaled_hessian = weight * scales, hessian / scales[:, None] / scales
    nearest, only_scaled = (round_to_nearest(each, scheme) for each in (weight, scaled))
    clipped = round_clipped(scaled, scaled_hessian, scheme)
    errors = [
        code_error(nearest, weight, x),
        code_error(only_scaled, scaled, x / scales),
        code_error(clipped, scaled, x / scales),
    ]
    assert errors[0] > errors[1] > errors[2]


def test_narrowed_ranges_never_make_an_output_worse():
    weight, x = make_layer()
    hessian, scheme = 2 * x.T @ x, Scheme(32)
    narrowed, whole = (
        output_error(each.weights() - weight, hessian)
        for each in (round_clipped(weight, hessian, scheme), round_to_nearest(weight, scheme))
    )
    assert bool((narrowed <= whole).all())
    assert bool((narrowed < whole).any())


def test_the_output_error_needs_no_tokens():
    weight, x = make_layer()
    rounded = round_to_nearest(weight, Scheme(32))
    from_hessian = output_error(rounded.weights() - weight, 2 * x.T @ x).sum()
    assert float(from_hessian) == pytest.approx(code_error(rounded, weight, x), rel=1e-9)


def test_scales_of_dead_channels_are_positive_and_the_first_changes_nothing():
    candidates = scale_candidates(torch.tensor([0.0, 1.0, 4.0]), lambda each: each)
    assert torch.equal(candidates[0], torch.ones(3))
    assert all(bool(((each > 0) & each.isfinite()).all()) for each in candidates)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_scaling_inputs_and_their_sources_changes_no_logits(architecture: str):
    model = make_model(architecture)
    input_ids = torch.tensor(make_rows()[4:5])
    with torch.no_grad():
        before = model(input_ids).logits
        for layer in model.base_model.layers:
            for shared in read_layer(layer):
                shared.scale(torch.empty(shared.num_channels).uniform_(0.4, 2.5))
        after = model(input_ids).logits
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5 * float(before.abs().max()))


# What flows through a decoder


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_rows_pass_through_the_layers_as_through_the_model(architecture: str):
    model, rows = make_model(architecture), make_rows()
    layers = model.base_model.layers
    batches = start_rows(model, layers, rows)
    # Every matrix of a layer is read from one of its four inputs.
    linears = [module for module in layers[0].modules() if isinstance(module, torch.nn.Linear)]
    assert sum(len(shared.readers) for shared in read_layer(layers[0])) == len(linears)
    for index, layer in enumerate(layers):
        pass_on(layer, index, batches)
    by_length = sorted(rows, key=len)
    found = [state for batch in batches for state in batch.states]
    with torch.no_grad():
        for row, state in zip(by_length, found, strict=True):
            whole = model.base_model(torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(model.base_model.norm(state), whole, rtol=1e-4, atol=1e-4)


def test_the_hessian_is_over_all_tokens_of_rows_of_all_lengths():
    model, rows = make_model("LlamaForCausalLM"), make_rows()
    layer = model.base_model.layers[0]
    seen: list[torch.Tensor] = []
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].double()))
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    hook.remove()
    x = torch.cat(seen)
    [statistics] = observe(layer, 0, start_rows(model, [*model.base_model.layers], rows), read_layer(layer)[3:])
    assert statistics.num_tokens == sum(map(len, rows)) == len(x)
    torch.testing.assert_close(statistics.hessian, 2 * x.T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(statistics.magnitudes, x.abs().sum(0), rtol=1e-4, atol=1e-4)


def test_statistics_start_at_nothing():
    empty = InputStatistics.empty(3)
    assert float(empty.hessian.sum()) == float(empty.magnitudes.sum()) == empty.num_tokens == 0


# Numbers


def test_zero_stays_zero_and_every_code_is_a_number_of_four_bits():
    weight, _ = make_layer()
    weight[:, 5] = 0
    weight[3] = 0
    rounded = round_to_nearest(weight, Scheme(32))
    assert int(rounded.codes.max()) == 15
    assert float(rounded.weights()[:, 5].abs().max()) == 0
    assert float(rounded.weights()[3].abs().max()) == 0
    assert float(rounded.grid.scales.min()) >= MIN_SCALE
    # Half a step at most, since the range is whole.
    steps = rounded.grid.scales.repeat_interleave(32, 1)
    assert float(((rounded.weights() - weight).abs() / steps).max()) <= 0.5 + 1e-6


def test_scales_for_a_gpu_are_what_float16_holds():
    weight, _ = make_layer()
    scales = fit_grid(weight.unflatten(1, (-1, 32)), Scheme(32, half_scales=True)).scales
    assert torch.equal(scales, scales.half().float())


def test_packed_numbers_unpack_to_codes_and_zero_points():
    codes = torch.arange(16 * 64).view(16, 64).remainder(16).to(torch.uint8)
    zeros = torch.arange(32.0).view(16, 2).remainder(16)
    packed = pack(Rounded(codes, Grid(torch.rand(16, 2), zeros)))
    assert packed["qweight"].shape == (8, 16)
    assert packed["qzeros"].shape == (2, 2)
    for place in range(8):
        assert torch.equal((packed["qweight"] >> (4 * place)) & 15, codes.T[place::8].int())
        assert torch.equal((((packed["qzeros"] >> (4 * place)) & 15) + 1) & 15, zeros.T[:, place::8].int())
    assert packed["g_idx"].tolist() == [0] * 32 + [1] * 32


# Checkpoints and graphs


def stored_weights(folder: Path, model) -> dict[str, torch.Tensor]:
    """What a checkpoint's matrices are worth, by the layout's own definition."""
    tensors = load_file(folder / "model.safetensors")
    found = {}
    for name in (each.removesuffix(".qweight") for each in tensors if each.endswith(".qweight")):
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        codes = ((tensors[f"{name}.qweight"][:, None] >> shifts[:, None]) & 15).flatten(0, 1)
        zeros = (((tensors[f"{name}.qzeros"][..., None] >> shifts) & 15) + 1 & 15).flatten(1)
        groups, scales = tensors[f"{name}.g_idx"].long(), tensors[f"{name}.scales"]
        found[name] = ((codes - zeros[groups]) * scales[groups]).T
        assert found[name].shape == model.get_submodule(name).weight.shape
    return found


def load_rounded(model, folder: Path, wanted) -> None:
    """Give a model the wanted weights of a checkpoint, rounded ones and others."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if name.endswith((".weight", ".bias"))}
    tensors |= {f"{name}.weight": each for name, each in stored_weights(folder, model).items()}
    for name, tensor in tensors.items():
        if wanted(name):
            model.get_parameter(name).data.copy_(tensor)


def graph_weights(folder: Path) -> dict[str, np.ndarray]:
    """What the 4-bit MatMulNBits of a graph are worth, by the operator's definition."""
    graph = onnx.load(str(folder / "model.onnx")).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    found = {}
    for node in graph.node:
        settings = {each.name: each.i for each in node.attribute}
        if node.op_type == "MatMulNBits" and settings["bits"] == 4:
            num_groups = settings["K"] // settings["block_size"]
            codes, scales, zeros = (arrays[name] for name in node.input[1:4])
            codes = np.stack([codes & 15, codes >> 4], -1).reshape(settings["N"], num_groups, -1).astype(np.float32)
            zeros = zeros.reshape(settings["N"], -1)
            zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(settings["N"], -1)[:, :num_groups]
            scales = scales.reshape(settings["N"], num_groups)
            worth = (codes - zeros[..., None].astype(np.float32)) * scales[..., None]
            found[node.name] = worth.reshape(settings["N"], -1)
    return found


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_a_graph_holds_exactly_the_values_that_were_chosen(tiny_folder, prompts, tmp_path, algorithm):
    form = Form("int4", algorithm, 16)
    checkpoint = calibrate(tiny_folder, tmp_path / "checkpoint", form, prompts)
    chosen = stored_weights(checkpoint, load_tiny_llama(tiny_folder))
    assert len(chosen) == 2 * 7
    graph = graph_weights(export_onnx(tiny_folder, tmp_path / "onnx", form, calibration=prompts).folder)
    for layer in range(2):
        names = {"attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "o_proj": ["self_attn.o_proj"]}
        names |= {each: [f"mlp.{each}"] for each in ("gate_proj", "up_proj", "down_proj")}
        for part, members in names.items():
            own = torch.cat([chosen[f"model.layers.{layer}.{member}"] for member in members]).numpy()
            wanted = "qkv_proj" if part == "attn" else part
            [found] = [each for name, each in graph.items() if f"layers.{layer}/" in name and wanted in name]
            assert np.array_equal(found, own), (layer, part)


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_each_layer_is_rounded_for_what_the_rounded_layers_before_it_make_of_all_rows(tmp_path, algorithm):
    model, rows, scheme = make_model("LlamaForCausalLM"), make_rows(), Scheme(16)
    model.save_pretrained(tmp_path / "model")
    folder = calibrate(tmp_path / "model", tmp_path / "checkpoint", Form("int4", algorithm, 16), rows)
    chosen = stored_weights(folder, model)
    own = model.get_submodule("model.layers.1.mlp.down_proj").weight.data.clone()
    load_rounded(model, folder, lambda name: algorithm == "gptq" or ".layers.1." not in name)
    model.get_submodule("model.layers.1.mlp.down_proj").weight.data.copy_(own)
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    hook.remove()
    x = torch.cat(seen)
    if algorithm == "gptq":
        expected = round_gptq(own, 2 * x.T @ x, scheme)
    else:
        hessian = 2 * x.T @ x / len(x)
        scales = search_scales(own, hessian, scale_candidates(x.abs().mean(0), lambda each: each), scheme)
        expected = round_clipped(own * scales, hessian / scales[:, None] / scales, scheme)
    # Sums in another order differ in their last bits, which turns a weight that lies between two numbers.
    difference = (expected.weights() - chosen["model.layers.1.mlp.down_proj"]).abs()
    assert float((difference < 1e-3 * own.abs().max()).float().mean()) > 0.995


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_the_builders_loader_reads_each_kind_of_model(tmp_path, architecture: str, algorithm):
    model = make_model(architecture)
    model.save_pretrained(tmp_path / "model")
    folder = calibrate(tmp_path / "model", tmp_path / "checkpoint", Form("int4", algorithm, 16), make_rows())
    chosen = stored_weights(folder, model)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    loaded = QuantModel.from_pretrained(
        config["quant_method"],
        input_path=str(folder),
        quant_attrs={"config": config, "use_g_idx": config["desc_act"]},
        q_size=64,
        kv_size=32,
        intermediate_size=96,
        num_layers=2,
    )
    attention, feed_forward = loaded.layers[1].self_attn, loaded.layers[1].mlp
    parts = {
        "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
        "o_proj": (attention.o_proj,),
        "gate_up": (feed_forward.gate_proj, feed_forward.up_proj),
        "down_proj": (feed_forward.down_proj,),
    }
    names = [name for name in chosen if ".layers.1." in name]
    for shared, found in zip(read_layer(model.base_model.layers[1]), parts.values(), strict=True):
        own = torch.cat([chosen[f"model.layers.1.{name}"] for name in shared.readers])
        codes = [torch.stack([each.qweight & 15, each.qweight >> 4], -1).flatten(2) for each in found]
        zeros = [each.qzeros.view(each.out_features, -1) for each in found]
        zeros = [
            torch.stack([each & 15, each >> 4], -1).flatten(1)[:, : part.shape[1]]
            for each, part in zip(zeros, codes, strict=True)
        ]
        worth = [
            ((code.float() - zero[..., None].float()) * each.scales.view(each.out_features, -1, 1)).flatten(1)
            for code, zero, each in zip(codes, zeros, found, strict=True)
        ]
        assert torch.equal(torch.cat(worth), own)
    assert len(names) == sum(len(shared.readers) for shared in read_layer(model.base_model.layers[1]))


def test_the_same_rows_give_the_same_folder(tiny_folder, prompts, tmp_path):
    folders = [calibrate(tiny_folder, tmp_path / name, Form("int4", "awq", 16), prompts) for name in ("one", "two")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert (folders[0] / "tokenizer.json").is_file()


def test_layers_are_announced_and_rows_and_their_lack_are_counted(tiny_folder, prompts, tmp_path):
    events: list[tuple[str, dict[str, object]]] = []
    rows = [*prompts[:3], []]
    calibrate(
        tiny_folder,
        tmp_path / "out",
        Form("int4", "gptq", 16),
        rows,
        log=lambda *each: events.append((each[0], dict(each[1]))),
    )
    tokens = sum(map(len, rows))
    assert events == [
        ("calibration_rows", {"given": 4, "used": 3, "tokens": tokens}),
        ("calibration_thin", {"tokens": tokens, "needed": 128}),
        *[("calibrating", {"algorithm": "gptq", "layer": layer, "num_layers": 2}) for layer in (1, 2)],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_more_rows_than_are_needed_are_thinned_evenly(tiny_folder, tmp_path):
    events: dict[str, object] = {}
    rows = [[1 + number % 500] * 64 for number in range(2 * MAX_TOKENS // 64)]
    calibrate(tiny_folder, tmp_path / "out", Form("int4", "gptq", 16), rows, log=lambda *each: events.update([each]))
    assert events["calibration_rows"] == {"given": len(rows), "used": MAX_TOKENS // 64, "tokens": MAX_TOKENS}


@pytest.mark.parametrize("rows", [[], [[], []], [[1, 512]], [[-1]]])
def test_rows_that_say_nothing_or_are_not_the_models_are_refused(tiny_folder, tmp_path, rows: list[list[int]]):
    with pytest.raises(UserError, match="calibration") as caught:
        calibrate(tiny_folder, tmp_path / "out", Form("int4", "gptq", 16), rows)
    assert caught.value.code == "export-failed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [Form("int4", "k_quant", 32), Form("fp32"), Form("int8", "gptq", 32)])
def test_forms_that_calibration_does_not_make_are_refused(tiny_folder, tmp_path, form: Form):
    with pytest.raises(UserError, match="calibration"):
        calibrate(tiny_folder, tmp_path / "out", form, [[1]])


def test_blocks_that_do_not_fit_a_matrix_are_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="64 inputs"):
        calibrate(tiny_folder, tmp_path / "out", Form("int4", "gptq", 128), [[1]])


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "Gemma4ForConditionalGeneration", None])
def test_architectures_whose_layers_are_not_known_are_refused_with_a_way_out(tiny_folder, tmp_path, architecture):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": architecture and [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="architecture") as caught:
        calibrate(folder, tmp_path / "out", Form("int4", "gptq", 16), [[1]])
    assert caught.value.code == "export-failed"
    assert "k_quant" in caught.value.hint


def test_activations_that_are_not_finite_are_refused(tmp_path):
    model = make_model("LlamaForCausalLM")
    model.model.layers[0].mlp.up_proj.weight.data *= 1e38
    model.model.layers[0].mlp.gate_proj.weight.data *= 1e38
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="layer 1 makes NaN or infinite values"):
        calibrate(tmp_path / "model", tmp_path / "out", Form("int4", "gptq", 16), make_rows())
