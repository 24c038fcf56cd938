"""Every family of models goes the whole way with its own attention windows: LoRA, merge, save, ONNX, the same tokens.

The models are random, small and wild (large weights), so that answers wander and every part matters. One process builds
all graphs, through the functions of the real worker: importing the builder takes ten times as long as one graph.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from kivnun.errors import UserError
from kivnun.generation.agreement import compare_answers
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import BaseModelName, load_tuned, make_method, merge
from kivnun.models.load import load_model
from kivnun.models.save import save_model
from kivnun.models.types import Tokenizer
from kivnun.optimization.architectures import (
    ARCHITECTURES,
    context_limit,
    exportable_forms,
    matrix_widths,
    read_config,
)
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import WORKER, builder_options
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.optimization import OptimizationSection, Target

CONTEXT, WINDOW, END = 96, 8, 0
SHAPE = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
}
UNTIED = SHAPE | {"tie_word_embeddings": False}
# Wider heads than the hidden size has room for, as Gemma and Qwen3 have them.
WIDE_HEADS = SHAPE | {"head_dim": 48}
LOCAL_AND_GLOBAL = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True)
class Family:
    """A kind of model, and the layers that LoRA trains in it."""

    config: PreTrainedConfig
    target_modules: str | tuple[str, ...] = "all-linear"


TOKENS = {name: SHAPE[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
# GPT-2 has names of its own.
GPT2 = TOKENS | {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.3}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(LlamaConfig(**SHAPE)),
    "llama with stretched positions": Family(
        LlamaConfig(**UNTIED, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})
    ),
    "llama 3.1": Family(
        LlamaConfig(
            **SHAPE,
            rope_parameters={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 1e4,
            },
        )
    ),
    "phi with half-rotated heads": Family(PhiConfig(**SHAPE, layer_norm_eps=1e-3)),
    "olmo": Family(OlmoConfig(**SHAPE)),
    "phi3 as seed 004": Family(
        Phi3Config(**UNTIED, sliding_window=WINDOW, original_max_position_embeddings=CONTEXT), ("o_proj", "qkv_proj")
    ),
    "mistral": Family(MistralConfig(**UNTIED, sliding_window=WINDOW)),
    "qwen2": Family(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "qwen3": Family(Qwen3Config(**WIDE_HEADS)),
    "gemma": Family(GemmaConfig(**WIDE_HEADS)),
    "gpt2 as seed 000": Family(GPT2Config(**GPT2), ("c_attn", "c_proj")),
    "gemma2": Family(Gemma2Config(**WIDE_HEADS, **LOCAL_AND_GLOBAL, query_pre_attn_scalar=48)),
    "gemma3": Family(
        Gemma3TextConfig(
            **WIDE_HEADS,
            **LOCAL_AND_GLOBAL,
            query_pre_attn_scalar=48,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        )
    ),
}
every_family = pytest.mark.parametrize("name", FAMILIES)

FORMS = (Form("fp32"), Form("int4", "k_quant", 32))
# Several times the window and far below the context; each answer is 20 tokens more.
PROMPTS = [[(17 * row + 31 * place * place) % 399 + 1 for place in range(3 + 13 * row)] for row in range(4)]
ANSWERS = {"max_new_tokens": 20, "stop_ids": frozenset[int]()}
BUILD_ALL = """
import importlib.util, json, pathlib, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
for model, built, cache, precision, options in json.loads(sys.argv[2]):
    worker.build((None, model, built, precision, "cpu", cache), options)
    worker.check(pathlib.Path(built), "cpu")
"""


def tune(family: Family, folder: Path, tokenizer: Tokenizer) -> TorchEngine:
    """Train nothing, but give every adapter weights of some size; the merged model is in `folder/merged`."""
    torch.manual_seed(3)
    save_model(AutoModelForCausalLM.from_config(family.config), tokenizer, folder / "base")
    method = make_method(LoraMethod(rank=4, target_modules=family.target_modules))
    model = load_model(folder / "base", dtype=torch.float32)
    draws = torch.Generator().manual_seed(5)
    method.prepare(model, generator=draws)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=draws)
    (folder / "adapter").mkdir()
    method.export(model, folder / "adapter", base_model=BaseModelName("base", folder / "base"))
    tuned = load_tuned(folder / "base", folder / "adapter", dtype=torch.float32)
    save_model(
        merge(load_tuned(folder / "base", folder / "adapter", dtype=torch.float32)), tokenizer, folder / "merged"
    )
    return TorchEngine(tuned, pad_id=END)


@pytest.fixture(scope="module")
def tuned(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, TorchEngine]]:
    """A folder for each family, with its merged model, and the tuned model as it was trained."""
    found = {}
    for name, family in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        found[name] = (folder, tune(family, folder, tiny_tokenizer))
    return found


@pytest.fixture(scope="module")
def exported(tuned: dict[str, tuple[Path, TorchEngine]]) -> dict[str, tuple[Path, TorchEngine]]:
    """The same with every form's ONNX folder."""
    jobs = [
        (
            str(folder / "merged"),
            str(folder / form.folder_name),
            str(folder / "cache"),
            form.precision,
            builder_options(form),
        )
        for folder, _ in tuned.values()
        for form in FORMS
    ]
    command = [sys.executable, "-P", "-c", BUILD_ALL, str(WORKER), json.dumps(jobs)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    return tuned


def logits(engine: TorchEngine | OnnxEngine, token_ids: Sequence[int]) -> np.ndarray:
    return np.stack(list(engine.forced_logits(token_ids[:20], token_ids[20:])))


@every_family
def test_fp32_onnx_answers_like_the_tuned_model_far_beyond_its_window(exported, name: str):
    folder, reference = exported[name]
    onnx = OnnxEngine(folder / "onnx-fp32")
    agreement = compare_answers(
        reference.generate(PROMPTS, **ANSWERS), onnx.generate(PROMPTS, **ANSWERS), tie_tolerance=1e-3
    )
    assert agreement.identical == len(PROMPTS)
    token_ids = [*PROMPTS[3], *PROMPTS[2]]
    assert np.abs(logits(onnx, token_ids) - logits(reference, token_ids)).max() < 1e-3


@every_family
def test_int4_onnx_predicts_nearly_what_the_tuned_model_does(exported, name: str):
    folder, reference = exported[name]
    onnx = OnnxEngine(folder / "onnx-int4")
    assert [len(answer.token_ids) for answer in onnx.generate(PROMPTS, **ANSWERS)] == [20] * len(PROMPTS)
    pairs = zip(logits(onnx, PROMPTS[3]), logits(reference, PROMPTS[3]), strict=True)
    assert np.mean([np.corrcoef(ours, theirs)[0, 1] for ours, theirs in pairs]) > 0.7


@every_family
def test_every_family_is_planned_in_whole_blocks_and_with_its_whole_context(tuned, name: str):
    folder, _ = tuned[name]
    (form,) = exportable_forms(folder / "merged", OptimizationSection())
    assert form.block_size == 32
    assert context_limit(read_config(folder / "merged"), "cpu") is None


def write_config(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refuse(folder: Path, **settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        exportable_forms(folder, OptimizationSection.model_validate(settings))
    return caught.value


def test_the_known_architectures_are_those_of_the_installed_builder():
    spec = importlib.util.find_spec("onnxruntime_genai.models.builder")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text("utf-8")
    assert set(re.findall(r'config\.architectures\[0\] == "(\w+)"', source)) == ARCHITECTURES


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "the architecture BloomForCausalLM"),
        ({"architectures": ["MistralForCausalLM"], "rope_scaling": {"type": "yarn"}}, "rotary positions: yarn"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rotary positions: dynamic"),
        ({"architectures": ["SmolLM3ForCausalLM"]}, "the layers of SmolLM3 that have none"),
        ({"use_bidirectional_attention": True}, "attends to later tokens"),
        ({"hidden_size": 96, "num_attention_heads": 4}, "heads of 24 numbers"),
    ],
)
def test_what_the_builder_cannot_make_is_refused_from_the_config_alone(tmp_path, config: dict, problem: str):
    error = refuse(write_config(tmp_path, **config), precision="fp32")
    assert problem in error.problem
    assert error.code == "export-failed"


def test_calibration_is_planned_only_where_it_knows_the_layers(tmp_path):
    folder = write_config(tmp_path, architectures=["PhiForCausalLM"], hidden_size=64, num_attention_heads=2)
    assert "gptq and awq do not know" in refuse(folder, algorithm="gptq").problem
    candidates = exportable_forms(folder, OptimizationSection(precision="auto"))
    assert {form.algorithm for form in candidates} == {None, "rtn", "k_quant"}


@pytest.mark.parametrize("text", ['{"architectures": [', "[]", "\ufeff{"])
def test_a_config_that_is_not_a_json_object_is_refused(tmp_path, text: str):
    (tmp_path / "config.json").write_text(text)
    error = refuse(tmp_path)
    assert "config.json cannot be read" in error.problem
    assert error.code == "model-invalid"


@pytest.mark.parametrize(("block_size", "hint"), [(256, "16 or 32 or 64"), (128, "16 or 32 or 64")])
def test_blocks_that_do_not_fit_the_model_are_refused_at_once(tmp_path, block_size: int, hint: str):
    error = refuse(write_config(tmp_path, hidden_size=64, intermediate_size=128), block_size=block_size)
    assert f"blocks of {block_size} weights" in error.problem
    assert "hidden_size 64" in error.problem
    assert error.hint.endswith(hint)


def test_blocks_must_divide_the_heads_side_by_side_and_the_inner_width_of_gpt2(tmp_path):
    wide = write_config(tmp_path, hidden_size=64, intermediate_size=128, num_attention_heads=3, head_dim=16)
    assert exportable_forms(wide, OptimizationSection())[0].block_size == 16
    assert matrix_widths({"n_embd": 48, "n_inner": None}) == {"hidden_size": 48, "intermediate_size": 192}


def test_a_text_decoder_inside_a_config_is_what_counts(tmp_path):
    text = {"model_type": "gemma3_text", "hidden_size": 80, "intermediate_size": 160}
    folder = write_config(tmp_path, architectures=["Gemma3ForConditionalGeneration"], text_config=text)
    assert exportable_forms(folder, OptimizationSection())[0].block_size == 16


@pytest.mark.parametrize(
    ("config", "target", "limit"),
    [
        ({"model_type": "mistral"}, "cpu", None),
        ({"model_type": "mistral"}, "cuda", None),
        ({"model_type": "mistral"}, "directml", WINDOW),
        ({"model_type": "phimoe"}, "cpu", WINDOW),
        ({"model_type": "qwen2"}, "directml", None),
        ({"model_type": "qwen2", "use_sliding_window": True}, "directml", WINDOW),
        ({"model_type": "phimoe", "sliding_window": CONTEXT}, "cpu", None),
        ({"model_type": "phimoe", "sliding_window": None}, "cpu", None),
    ],
)
def test_a_form_that_may_lack_the_window_ends_at_it(config: dict, target: Target, limit: int | None):
    found = context_limit({"sliding_window": WINDOW, "max_position_embeddings": CONTEXT, **config}, target)
    assert (found and found.tokens) == limit


def test_directml_leaves_out_the_cap_on_attention_scores(tmp_path):
    folder = write_config(tmp_path, architectures=["Gemma2ForCausalLM"], attn_logit_softcapping=50.0)
    assert exportable_forms(folder, OptimizationSection(precision="fp16", target="cuda"))
    assert "attn_logit_softcapping" in refuse(folder, precision="fp16", target="directml").problem
