"""Every number format, algorithm and target is built as asked, checked, and refused where it would be wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_llama
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from kivnun.errors import UserError
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import WORKER, ExportResult, builder_options, export_onnx, limit_context
from kivnun.recipe.optimization import OptimizationSection

Events = list[tuple[str, Mapping[str, object]]]
WINDOW = 8
ROWS = [[(13 * row + 7 * place) % 511 + 1 for place in range(24)] for row in range(16)]
FORMS = (Form("int8", "rtn", 32), Form("int4", "k_quant", 32), Form("int4", "gptq", 32))
# What must stay of the first tokens of many prompts; a random model is seldom sure, and chance is 1 in 512.
SHARES = {"int8": 0.9, "int4": 0.25}
# Builds in one process what is not run, and says how each ended: importing the builder takes longest.
BUILD_ALL = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
for number, (model, built, cache, precision, provider, options) in enumerate(json.loads(sys.argv[2])):
    worker.build((None, model, built, precision, provider, cache), options)
    try:
        worker.check(pathlib.Path(built), provider)
        print("ended", number, "well")
    except (ValueError, RuntimeError) as error:
        print("ended", number, str(error).splitlines()[0])
"""


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    tensors = onnx.load(folder / "model.onnx").graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def first_tokens(engine: OnnxEngine | TorchEngine, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    answers = engine.generate(prompts, max_new_tokens=1, stop_ids=frozenset())
    return [answer.token_ids for answer in answers]


@pytest.fixture(scope="module")
def odd_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose inner width of 96 makes three blocks of 32: the zero points of a row do not fill their bytes."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("odd") / "model")
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_folder, intermediate_size=96)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(
    odd_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Form, tuple[ExportResult, list[Mapping[str, object]]]]:
    """Each form with the events of its export."""
    found, folder = {}, tmp_path_factory.mktemp("forms")
    for form in FORMS:
        events: Events = []
        result = export_onnx(
            odd_folder,
            folder / form.folder_name,
            form,
            calibration=ROWS,
            log=lambda event, fields, events=events: events.append((event, fields)),
        )
        found[form] = (result, [fields for event, fields in events if event == "exporting"])
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_quantised_form_is_built_checked_and_close_to_torch(exported, odd_folder, prompts, form: Form):
    result, _ = exported[form]
    assert (result.form, result.checked, result.notes) == (form, True, ())
    asked = [prompt[:length] for prompt in prompts for length in range(1, len(prompt) + 1)]
    reference = TorchEngine(tiny_llama.load_tiny_llama(odd_folder), pad_id=tiny_llama.END)
    pairs = zip(first_tokens(OnnxEngine(result.folder), asked), first_tokens(reference, asked), strict=True)
    assert np.mean([ours == theirs for ours, theirs in pairs]) > SHARES[form.precision]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_quantised_form_has_the_bits_and_blocks_that_were_asked_for(exported, form: Form):
    nodes = onnx.load(exported[form][0].folder / "model.onnx", load_external_data=False).graph.node
    products = [node for node in nodes if node.op_type == "MatMulNBits"]
    numbers = [{each.name: each.i for each in node.attribute} for node in products]
    assert {number["block_size"] for number in numbers} == {32}
    last, *_ = [number["bits"] for node, number in zip(products, numbers, strict=True) if "lm_head" in node.name]
    body = {number["bits"] for node, number in zip(products, numbers, strict=True) if "lm_head" not in node.name}
    assert (last, body) == (8, {8} if form.precision == "int8" else {4})


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_export_tells_how_far_it_is(exported, form: Form):
    _, told = exported[form]
    assert {fields["name"] for fields in told} == {str(form)}
    steps = [(fields["done"], fields["total"]) for fields in told]
    assert steps == sorted(steps)
    assert steps[0] == (1, 4)
    assert steps[-1] == (4, 4)


def test_every_weight_of_an_odd_number_of_blocks_is_within_a_step(exported, odd_folder):
    found = weights_of(exported[Form("int4", "k_quant", 32)][0].folder)
    name = "model.layers.1.mlp.down_proj.MatMul.weight"
    whole_OI = load_file(odd_folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    codes_OI = np.stack([found[f"{name}_Q4G32"] & 15, found[f"{name}_Q4G32"] >> 4], -1).reshape(64, 96)
    zeros_OG = np.stack([found[f"{name}_zp"] & 15, found[f"{name}_zp"] >> 4], -1).reshape(64, -1)[:, :3]
    scales_OI = found[f"{name}_scale"].reshape(64, 3).repeat(32, 1)
    error_OI = (codes_OI.astype(np.float32) - zeros_OG.repeat(32, 1)) * scales_OI - whole_OI
    assert (np.abs(error_OI) <= np.abs(scales_OI)).all()


def test_a_form_for_directml_ends_at_the_window_names_its_provider_and_was_not_run(odd_folder, tmp_path):
    windowed = shutil.copytree(odd_folder, tmp_path / "windowed")
    config = json.loads((windowed / "config.json").read_text()) | {"sliding_window": WINDOW}
    (windowed / "config.json").write_text(json.dumps(config))
    result = export_onnx(windowed, tmp_path / "onnx", Form("int4", "k_quant", 32, "directml"))
    assert not result.checked
    assert f"takes {WINDOW} tokens" in result.notes[0]
    assert "was built and not run" in result.notes[1]
    genai = json.loads((result.folder / "genai_config.json").read_text())
    options = genai["model"]["decoder"]["session_options"]["provider_options"]
    assert [list(entry) for entry in options] == [["dml"]]
    assert (genai["model"]["context_length"], genai["search"]["max_length"]) == (WINDOW, WINDOW)


def test_an_answer_ends_where_the_context_of_its_folder_does(fp32_folder, tmp_path):
    folder = shutil.copytree(fp32_folder, tmp_path / "onnx")
    limit_context(folder, WINDOW)
    (answer,) = OnnxEngine(folder).generate([[5, 6, 7]], max_new_tokens=24, stop_ids=frozenset())
    assert (len(answer.token_ids), answer.finished) == (WINDOW - 3, "length")
    limit_context(folder, 1000)
    assert json.loads((folder / "genai_config.json").read_text())["model"]["context_length"] == WINDOW


@pytest.fixture(scope="module")
def for_cuda(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the fp16 form, and how three checks ended: of it, of a weight too large for it, and of fp32."""
    folder = tmp_path_factory.mktemp("cuda")
    large = shutil.copytree(odd_folder, folder / "large")
    weights = load_file(large / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][5, 5] = 1e6
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    jobs = [
        (str(model), str(folder / name), str(folder / "cache"), form.precision, "cuda", builder_options(form))
        for model, name, form in (
            (odd_folder, "fp16", Form("fp16", target="cuda")),
            (large, "overflow", Form("fp16", target="cuda")),
            (odd_folder, "fp32", Form("fp32", target="cuda")),
        )
    ]
    command = [sys.executable, "-P", "-c", BUILD_ALL, str(WORKER), json.dumps(jobs)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return folder, [line for line in ended.stdout.splitlines() if line.startswith("ended")]


def test_a_form_for_cuda_holds_the_weights_to_half_precision(for_cuda, odd_folder):
    folder, ended = for_cuda
    assert ended[0] == "ended 0 well"
    found = weights_of(folder / "fp16")["model.layers.0.mlp.down_proj.MatMul.weight"]
    whole = load_file(odd_folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].half().numpy()
    assert np.array_equal(found, whole.T)
    outputs = {output.name: output for output in onnx.load(folder / "fp16" / "model.onnx").graph.output}
    assert outputs["present.0.key"].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_a_weight_too_large_for_fp16_is_refused(for_cuda):
    assert "down_proj.MatMul.weight are NaN or infinite" in for_cuda[1][1]


def test_a_graph_that_the_builder_writes_and_no_runtime_loads_is_refused(for_cuda):
    assert "does not exist in the graph" in for_cuda[1][2]


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_a_recipe_cannot_ask_for_fp32_elsewhere(target: str):
    with pytest.raises(ValueError, match="fp32 is computed on CPUs"):
        OptimizationSection.model_validate({"precision": "fp32", "target": target})


def test_calibration_without_rows_is_refused_and_nothing_is_left(odd_folder, tmp_path):
    with pytest.raises(UserError, match="calibration needs rows"):
        export_onnx(odd_folder, tmp_path / "onnx", Form("int4", "gptq", 32))
    assert list(tmp_path.iterdir()) == []
