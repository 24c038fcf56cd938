"""GPT-2 in ONNX, by a builder of our own: seed 000 with its saved modules, and a model in which little is as usual."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kivnun.errors import UserError
from kivnun.generation.agreement import compare_answers
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import BaseModelName, load_tuned, make_method, merge
from kivnun.models.load import load_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.optimization.architectures import exportable_forms
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.optimization import OptimizationSection

END, CONTEXT = 0, 96
SHAPE = {
    "vocab_size": 400,
    "n_positions": CONTEXT,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "initializer_range": 0.3,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
}
# As many tokens as one of its layers has outputs, and as positions: none may be taken for another.
UNUSUAL = SHAPE | {
    "vocab_size": 192,
    "n_positions": 192,
    "n_inner": 160,
    "activation_function": "relu",
    "scale_attn_by_inverse_layer_idx": True,
    "layer_norm_epsilon": 0.01,
}
ANSWERS = {"max_new_tokens": 20, "stop_ids": frozenset({END})}


def random_gpt2(config: GPT2Config) -> Model:
    """With biases and norms that matter."""
    torch.manual_seed(3)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Of many lengths; the end token, which pads too, at a prompt's start, inside it and at its end."""
    drawn = [[(17 * row + 31 * place * place) % 191 + 1 for place in range(2 + 5 * row)] for row in range(8)]
    drawn[1][:2] = [END, END]
    drawn[2][4:6] = [END, END]
    drawn[3][-2:] = [END, END]
    drawn[4][0] = drawn[4][-1] = END
    return drawn


@pytest.fixture(scope="module")
def tuned(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TorchEngine]:
    """Seed 000: adapters on c_attn and c_proj, the last norm and the head trained whole. The folder of the merged."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_model(random_gpt2(GPT2Config(**SHAPE)), tiny_tokenizer, folder / "base")
    model = load_model(folder / "base", dtype=torch.float32)
    targets = {"target_modules": ("c_attn", "c_proj"), "modules_to_save": ("ln_f", "lm_head")}
    method = make_method(LoraMethod(rank=16, alpha=32, **targets))
    draws = torch.Generator().manual_seed(5)
    method.prepare(model, generator=draws)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.1)
    (folder / "adapter").mkdir()
    method.export(model, folder / "adapter", base_model=BaseModelName("base", folder / "base"))
    reference = TorchEngine(load_tuned(folder / "base", folder / "adapter", dtype=torch.float32), pad_id=END)
    save_model(
        merge(load_tuned(folder / "base", folder / "adapter", dtype=torch.float32)), tiny_tokenizer, folder / "merged"
    )
    return folder / "merged", reference


@pytest.fixture(scope="module")
def shipped(tuned: tuple[Path, TorchEngine]) -> Path:
    return export_onnx(tuned[0], tuned[0].with_name("onnx"), Form("fp32")).folder


def require_same(onnx_folder: Path, reference: TorchEngine, prompts: list[list[int]]) -> None:
    """The same greedy tokens, and the same logits at every step of a given answer."""
    engine = OnnxEngine(onnx_folder)
    answers = [each.generate(prompts, **ANSWERS) for each in (reference, engine)]
    assert compare_answers(*answers, tie_tolerance=1e-3).identical == len(prompts)
    for prompt in prompts:
        ours, torchs = (np.stack([*each.forced_logits(prompt, [5, END, END, 9])]) for each in (engine, reference))
        assert np.abs(ours - torchs).max() < 1e-4


def test_the_merged_seed_answers_in_onnx_as_its_adapter_does(tuned, shipped: Path, prompts: list[list[int]]):
    require_same(shipped, tuned[1], prompts)


def test_a_head_that_was_trained_is_another_matrix_than_the_embeddings(tuned, shipped: Path):
    assert json.loads((tuned[0] / "config.json").read_text())["tie_word_embeddings"] is False
    names = {tensor.name for tensor in onnx.load(shipped / "model.onnx", load_external_data=False).graph.initializer}
    assert {"lm_head.MatMul.weight", "model.embed_tokens.weight"} <= names


def test_the_context_is_the_number_of_learned_positions(shipped: Path):
    (answer,) = OnnxEngine(shipped).generate([[5] * (CONTEXT - 3)], max_new_tokens=50, stop_ids=frozenset())
    assert len(answer.token_ids) == 3


def test_an_unusual_model_answers_the_same(tiny_tokenizer: Tokenizer, tmp_path: Path, prompts: list[list[int]]):
    model = random_gpt2(GPT2Config(**UNUSUAL))
    save_model(model, tiny_tokenizer, tmp_path / "model")
    events: list[tuple[str, object]] = []
    folder = export_onnx(
        *(tmp_path / "model", tmp_path / "onnx", Form("fp32")), log=lambda event, fields: events.append((event, fields))
    ).folder
    require_same(folder, TorchEngine(model, pad_id=END), prompts)
    # The tied matrix is stored once, and every layer was counted.
    names = {tensor.name for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer}
    assert "model.embed_tokens.weight" not in names
    assert [fields["done"] for event, fields in events if event == "exporting"] == [1, 2]


def write_config(folder: Path, **fields: object) -> Path:
    GPT2Config(**SHAPE | fields, architectures=["GPT2LMHeadModel"]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"activation_function": "quick_gelu"}, "activation quick_gelu"), ({"add_cross_attention": True}, "another text")],
)
def test_what_the_graph_would_leave_out_is_refused_from_the_config_alone(
    tmp_path: Path, fields: dict[str, object], words: str
):
    folder = write_config(tmp_path, **fields)
    with pytest.raises(UserError, match=words) as caught:
        exportable_forms(folder, OptimizationSection())
    assert caught.value.code == "export-failed"


def test_algorithms_that_do_not_know_its_layers_are_refused_or_no_candidates(tmp_path: Path):
    folder = write_config(tmp_path)
    with pytest.raises(UserError, match="gptq and awq do not know"):
        exportable_forms(folder, OptimizationSection.model_validate({"precision": "int4", "algorithm": "gptq"}))
    forms = exportable_forms(folder, OptimizationSection.model_validate({"precision": "auto"}))
    assert len(forms) > 2
    assert not any(form.needs_calibration for form in forms)


@pytest.mark.parametrize(("n_inner", "block_size"), [(None, 32), (176, 16)])
def test_blocks_fit_the_inner_width_by_its_own_name(tmp_path: Path, n_inner: int | None, block_size: int):
    folder = write_config(tmp_path, n_inner=n_inner)
    (form,) = exportable_forms(folder, OptimizationSection.model_validate({"precision": "int4"}))
    assert form.block_size == block_size
