"""One ONNX model with several adapters: the base stays what it was, and every adapter answers like torch's model."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as og
import pytest
import tiny_adapters
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import END, write_tiny_llama
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

from kivnun.errors import UserError
from kivnun.generation.adapter_list import adapter_file, changing, read_list, write_list
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.methods.adapter import WEIGHTS_NAME
from kivnun.models.resolve import resolve_model
from kivnun.optimization.adapter_sources import find_sources
from kivnun.optimization.adapters import BUILDER_OPTIONS, add_adapters, make_adapter_model, own_folder, remove_adapter
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx
from kivnun.optimization.onnx_lora import place_names, put_places, read_places
from kivnun.runs import hash_file

ASK = {"max_new_tokens": 10, "stop_ids": frozenset({END})}
INT4 = Form("int4", "k_quant", 32)
SHAPE = {"vocab_size": 512, "max_position_embeddings": 96, "bos_token_id": END, "eos_token_id": END}


def quiet(_event: str, _fields: object) -> None:
    """For tests that look at no progress."""


@pytest.fixture(scope="module")
def sources(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters, of other ranks, layers and scalings."""
    folder = tmp_path_factory.mktemp("adapters")
    write = tiny_adapters.write_adapter
    write(tiny_folder, folder / "classifier", seed=1)
    write(tiny_folder, folder / "generator", seed=2, rank=2, target_modules=["q_proj", "down_proj"], use_rslora=True)
    write(tiny_folder, folder / "third", seed=3, rank=3)
    return folder


@pytest.fixture(scope="module")
def made(tiny_folder: Path, sources: Path) -> Path:
    """The fp32 model with two adapters; never written to by a test."""
    out = sources.parent / "made"
    given = find_sources([str(sources / "classifier"), str(sources / "generator")])
    make_adapter_model(resolve_model(str(tiny_folder)), given, out, Form("fp32"), log=quiet)
    return out


@pytest.fixture(scope="module")
def int4_base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builder makes before there are places for adapters; never written to by a test."""
    folder = tmp_path_factory.mktemp("int4") / "base"
    return export_onnx(tiny_folder, folder, INT4, options=BUILDER_OPTIONS).folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "folder"))


def torch_answers(base: Path, adapter: Path, prompts):
    return TorchEngine(load_tuned(base, adapter, dtype=torch.float32), pad_id=END).generate(prompts, **ASK)


def base_hashes(folder: Path) -> dict[str, str]:
    return {name: hash_file(folder / name) for name in ("model.onnx", "model.onnx.data", "genai_config.json")}


def test_every_prompt_of_a_batch_is_answered_by_its_adapter_as_in_torch(made, tiny_folder, sources, prompts):
    names = [("classifier", "generator")[row % 2] for row in range(len(prompts))]
    said = OnnxEngine(made).generate(prompts, **ASK, adapters=names)
    for name in ("classifier", "generator"):
        rows = [row for row, each in enumerate(names) if each == name]
        wanted = torch_answers(tiny_folder, sources / name, [prompts[row] for row in rows])
        assert [said[row].token_ids for row in rows] == [answer.token_ids for answer in wanted]


def test_without_an_adapter_the_graph_is_the_base_bit_for_bit(int4_base, prompts, tmp_path):
    shared = Path(shutil.copytree(int4_base, tmp_path / "shared"))
    assert len(put_places(shared)) == 14
    for prompt in prompts[:4]:
        wanted, found = (list(OnnxEngine(each).forced_logits(prompt, [3, 4, 5])) for each in (int4_base, shared))
        assert np.array_equal(wanted, found)
    assert hash_file(int4_base / "model.onnx.data") == hash_file(shared / "model.onnx.data")


def test_rounded_weights_take_the_same_adapters_and_report_their_agreement(
    int4_base, made, tiny_folder, sources, prompts, tmp_path
):
    folder = Path(shutil.copytree(int4_base, tmp_path / "folder"))
    put_places(folder)
    assert set(read_places(folder)) == set(read_places(made))
    write_list(folder, replace(read_list(made), form=str(INT4), precision="int4", adapters=()))
    [record] = add_adapters(folder, find_sources([str(sources / "classifier")]), log=quiet).adapters
    # Of a random model, whose answers part soon; chance would be 1 in 512.
    assert 0.1 < record.token_agreement < 1
    assert record.sha256 == read_list(made).find("classifier", made).sha256
    many = [prompt[:length] for prompt in prompts for length in range(1, len(prompt) + 1)]
    ask = {"max_new_tokens": 1, "stop_ids": frozenset[int]()}
    model = load_tuned(tiny_folder, sources / "classifier", dtype=torch.float32)
    wanted = TorchEngine(model, pad_id=END).generate(many, **ask)
    engine = OnnxEngine(folder)
    alike = [
        sum(one.token_ids == other.token_ids for one, other in zip(wanted, each.generate(many, **ask), strict=True))
        for each in (engine.with_adapter("classifier"), engine)
    ]
    assert alike[0] > 2 * alike[1]


def test_after_a_request_with_an_adapter_the_next_one_without_is_the_base_again(made, fp32_folder, prompts):
    engine = OnnxEngine(made)
    base = engine.generate(prompts, **ASK)
    changed = engine.with_adapter("classifier").generate(prompts, **ASK)
    assert [answer.token_ids for answer in changed] != [answer.token_ids for answer in base]
    assert engine.generate(prompts, **ASK) == base
    plain = OnnxEngine(fp32_folder).generate(prompts, **ASK)
    assert [answer.token_ids for answer in base] == [answer.token_ids for answer in plain]


def test_switching_adapters_takes_milliseconds(made, prompts):
    engine = OnnxEngine(made)
    for name in ("classifier", "generator"):
        engine.with_adapter(name)
    started = time.perf_counter()
    for name in ("classifier", "generator") * 10:
        engine.with_adapter(name)
    assert (time.perf_counter() - started) / 20 < 0.05


def test_the_runtime_alone_can_use_the_files(made, prompts, tiny_folder, sources):
    # As another program would, without Kivnun.
    model = og.Model(str(made))
    adapters = og.Adapters(model)
    adapters.load(str(made / "adapters" / "generator.onnx_adapter"), "generator")
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompts[2]) + 4)
    steps = og.Generator(model, parameters)
    steps.set_active_adapter(adapters, "generator")
    steps.append_tokens(np.array(prompts[2], dtype=np.int32))
    for _ in range(4):
        steps.generate_next_token()
    [wanted] = torch_answers(tiny_folder, sources / "generator", [prompts[2]])
    assert tuple(steps.get_sequence(0)[-4:]) == wanted.token_ids[:4]


def test_adding_and_removing_leaves_the_base_and_the_others_untouched(folder, sources, prompts, tiny_folder):
    engine = OnnxEngine(folder)
    before, other = base_hashes(folder), hash_file(adapter_file(folder, "classifier"))
    first = engine.with_adapter("classifier").generate(prompts[:3], **ASK)
    add_adapters(folder, find_sources([f"third={sources / 'third'}"]), log=quiet)
    # The model that is loaded already knows it.
    wanted = torch_answers(tiny_folder, sources / "third", prompts[:3])
    said = engine.with_adapter("third").generate(prompts[:3], **ASK)
    assert [answer.token_ids for answer in said] == [answer.token_ids for answer in wanted]
    remove_adapter(folder, "generator")
    assert read_list(folder).names == ("classifier", "third")
    assert not adapter_file(folder, "generator").exists()
    assert not own_folder(folder, "generator").exists()
    assert base_hashes(folder) == before
    assert hash_file(adapter_file(folder, "classifier")) == other
    assert engine.with_adapter("classifier").generate(prompts[:3], **ASK) == first
    with pytest.raises(UserError) as caught:
        engine.with_adapter("generator")
    assert caught.value.code == "adapter-unknown"


def test_a_name_that_is_used_again_is_another_adapter(folder, sources, prompts, tiny_folder):
    engine = OnnxEngine(folder)
    engine.with_adapter("classifier")
    remove_adapter(folder, "classifier")
    add_adapters(folder, find_sources([f"classifier={sources / 'third'}"]), log=quiet)
    said = engine.with_adapter("classifier").generate(prompts[:3], **ASK)
    wanted = torch_answers(tiny_folder, sources / "third", prompts[:3])
    assert [answer.token_ids for answer in said] == [answer.token_ids for answer in wanted]


def test_a_folder_may_be_moved(folder, tmp_path, prompts, made):
    folder.rename(tmp_path / "elsewhere")
    said, wanted = (
        OnnxEngine(each).with_adapter("generator").generate(prompts[:2], **ASK)
        for each in (tmp_path / "elsewhere", made)
    )
    assert said == wanted


@pytest.mark.parametrize("left", ["file", "own-files", "partial"])
def test_what_a_kill_leaves_behind_is_not_an_adapter_and_in_nobodys_way(folder, sources, left):
    # A kill before the list was written: some of the new files have their names already.
    if left == "partial":
        (folder / "adapters" / ".third.abc").mkdir()
    if left in ("own-files", "file"):
        own_folder(folder, "third").mkdir()
        (own_folder(folder, "third") / "template.json").write_text("{}")
    if left == "file":
        adapter_file(folder, "third").write_bytes(b"half")
    assert read_list(folder).names == ("classifier", "generator")
    with pytest.raises(UserError) as caught:
        OnnxEngine(folder).with_adapter("third")
    assert caught.value.code == "adapter-unknown"
    add_adapters(folder, find_sources([str(sources / "third")]), log=quiet)
    assert not (own_folder(folder, "third") / "template.json").exists()
    OnnxEngine(folder).with_adapter("third")
    assert list((folder / "adapters").glob(".*")) == []


def test_two_processes_do_not_change_one_folder_at_once(folder):
    with changing(folder):
        refused("run-locked", lambda: remove_adapter(folder, "classifier"))
    assert remove_adapter(folder, "classifier").names == ("generator",)


def test_a_changed_adapter_file_is_refused(folder):
    path = adapter_file(folder, "classifier")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        OnnxEngine(folder).with_adapter("classifier")
    assert caught.value.code == "artifact-damaged"
    OnnxEngine(folder).with_adapter("generator")


def test_an_adapter_that_answers_unlike_torch_is_not_added(folder, sources, monkeypatch):
    # A graph whose layers were mixed up: the inputs of two layers change places.
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    swap = {
        "model.layers.0.attn.q_proj": "model.layers.1.attn.q_proj",
        "model.layers.1.attn.q_proj": "model.layers.0.attn.q_proj",
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            stem, _, suffix = name.rpartition(".")
            if suffix in ("lora_A", "lora_B") and stem in swap:
                node.input[index] = f"{swap[stem]}.{suffix}"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError) as caught:
        add_adapters(folder, find_sources([str(sources / "third")]), log=quiet)
    assert caught.value.code == "parity-failed"
    assert read_list(folder).names == ("classifier", "generator")
    assert sorted(path.name for path in (folder / "adapters").glob("*.onnx_adapter")) == [
        "classifier.onnx_adapter",
        "generator.onnx_adapter",
    ]


def test_what_finetune_left_is_found_and_named_after_its_folder(sources: Path, tmp_path: Path) -> None:
    for name in ("classifier", "generator"):
        shutil.copytree(sources / name, tmp_path / name / "adapter")
        (tmp_path / name / "model").mkdir()
    folders = [tmp_path / name for name in ("classifier", "generator")]
    found = find_sources([str(folder) for folder in folders])
    assert [(source.name, source.folder) for source in found] == [
        ("classifier", folders[0] / "adapter"),
        ("generator", folders[1] / "adapter"),
    ]
    inner = [str(folder / "adapter") for folder in folders]
    assert [source.name for source in find_sources(inner)] == ["classifier", "generator"]
    # A name that is free, or given, stays.
    assert [source.name for source in find_sources(inner[:1])] == ["adapter"]
    assert [source.name for source in find_sources([f"adapter={inner[0]}", inner[1]])] == ["adapter", "generator"]
    shutil.copytree(folders[0], tmp_path / "a name")
    refused("adapter-invalid", lambda: find_sources([str(tmp_path / "a name/adapter"), inner[1]]))


def refused(code: str, ask: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        ask()
    assert caught.value.code == code
    return caught.value


def test_what_cannot_be_added_is_refused_and_leaves_no_trace(folder, sources, tiny_folder, tmp_path):
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    write = tiny_adapters.write_adapter
    dora = write(tiny_folder, tmp_path / "dora", seed=4, use_dora=True)
    saved = write(tiny_folder, tmp_path / "saved", seed=4, modules_to_save=["norm"])
    other = write(write_tiny_llama(tmp_path / "other", tie_word_embeddings=False), tmp_path / "foreign", seed=4)
    broken = write(tiny_folder, tmp_path / "broken", seed=4)
    tensors = load_file(broken / WEIGHTS_NAME)
    next(iter(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, broken / WEIGHTS_NAME)
    for path in (dora, saved, other, broken, tiny_folder, tmp_path / "none"):
        refused("adapter-invalid", lambda path=path: add_adapters(folder, find_sources([str(path)]), log=quiet))
    error = refused(
        "adapter-taken", lambda: add_adapters(folder, find_sources([str(sources / "classifier")]), log=quiet)
    )
    assert "remove" in error.hint
    twice = [str(sources / "third"), f"third={sources / 'generator'}"]
    refused("adapter-taken", lambda: find_sources(twice))
    for name in ("a/b", "..", "", "x.onnx_adapter"):
        refused("adapter-invalid", lambda name=name: find_sources([f"{name}={sources / 'nowhere'}"]))
    refused("adapter-invalid", lambda: find_sources([f"a b={sources / 'third'}"]))
    refused("adapter-unknown", lambda: remove_adapter(folder, "third"))
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_another_base_model_than_the_folders_is_refused(folder, sources, tmp_path):
    other = write_tiny_llama(tmp_path / "other", tie_word_embeddings=False)
    given = find_sources([str(sources / "third")])
    refused("model-invalid", lambda: add_adapters(folder, given, base_model=str(other), log=quiet))


def test_a_model_that_cannot_be_made_leaves_no_folder(tiny_folder, sources, tmp_path):
    saved = tiny_adapters.write_adapter(tiny_folder, tmp_path / "saved", seed=4, modules_to_save=["norm"])
    given = find_sources([str(sources / "third"), str(saved)])
    base = resolve_model(str(tiny_folder))
    refused("adapter-invalid", lambda: make_adapter_model(base, given, tmp_path / "out" / "model", INT4, log=quiet))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    refused("file-exists", lambda: make_adapter_model(base, given[:1], tmp_path / "full", INT4, log=quiet))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


FAMILIES = {
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(
            **SHAPE,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            original_max_position_embeddings=96,
            pad_token_id=END,
            sliding_window=None,
            initializer_range=0.3,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=512,
            n_positions=96,
            n_embd=64,
            n_layer=2,
            n_head=2,
            bos_token_id=END,
            eos_token_id=END,
            initializer_range=0.3,
        )
    ),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_layers_that_the_builder_takes_apart_or_renames_find_their_places(family, tiny_folder, tmp_path):
    torch.manual_seed(1)
    model = FAMILIES[family]()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder / name, tmp_path / "base" / name)
    adapter = tiny_adapters.write_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    base = resolve_model(str(tmp_path / "base"))
    # In fp32 an adapter is added only where it answers as in torch.
    [record] = make_adapter_model(
        base, find_sources([str(adapter)]), tmp_path / "out", Form("fp32"), log=quiet
    ).adapters
    assert record.identical == record.prompts
    assert record.token_agreement == 1


def test_names_of_layers_become_names_of_places():
    assert place_names("model.layers.3.self_attn.o_proj") == ("model.layers.3.attn.o_proj",)
    assert place_names("model.layers.3.mlp.gate_up_proj") == (
        "model.layers.3.mlp.gate_proj",
        "model.layers.3.mlp.up_proj",
    )
    assert place_names("transformer.h.0.mlp.c_proj") == ("model.layers.0.mlp.fc2",)
    assert place_names("lm_head") == ("lm_head",)
