"""Model folders: what is saved comes back, and what cannot be a model is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from kivnun.errors import UserError
from kivnun.models.load import load_model, load_tokenizer, model_config_value
from kivnun.models.new import make_model
from kivnun.models.resolve import hash_folder, resolve_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.schema import NewModel

SHAPE = NewModel(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def code_of(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value.code


def test_what_is_saved_is_loaded_bit_for_bit(tiny_model: Model, tiny_tokenizer: Tokenizer, tmp_path: Path):
    save_model(tiny_model, tiny_tokenizer, tmp_path / "again")
    again = load_model(tmp_path / "again", dtype=torch.float32)
    before, after = tiny_model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    text = "Hello! שלום <|im_start|>"
    assert load_tokenizer(tmp_path / "again")(text).input_ids == tiny_tokenizer(text).input_ids


def test_a_loaded_model_is_in_evaluation_mode_and_in_the_asked_format(tiny_model_folder: Path):
    model = load_model(tiny_model_folder, dtype=torch.bfloat16)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_tokenizer_gives_back_every_text(tiny_tokenizer: Tokenizer):
    text = "a\tb\n\n  שָׁלוֹם 你好 🙂 \x00 é"
    assert tiny_tokenizer.decode(tiny_tokenizer(text).input_ids) == text
    assert len(tiny_tokenizer) == 400


def test_a_seed_makes_the_same_model_and_leaves_the_random_state_alone(tiny_tokenizer: Tokenizer):
    state = torch.get_rng_state()
    one, same, other = (make_model(SHAPE, tiny_tokenizer, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.layers.0.mlp.up_proj.weight"], other["model.layers.0.mlp.up_proj.weight"])


def test_the_end_of_text_learns_its_input_embedding(tiny_tokenizer: Tokenizer, tmp_path: Path):
    """Though it pads too: transformers would leave the embedding of a padding token out."""
    shape = SHAPE.model_copy(update={"tie_word_embeddings": False})
    save_model(make_model(shape, tiny_tokenizer, seed=1), tiny_tokenizer, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["pad_token_id"] is None
    model = load_model(tmp_path / "new", dtype=torch.float32)
    end = tiny_tokenizer.eos_token_id
    model(input_ids=torch.tensor([[end, 7]])).logits[0, :, 9].sum().backward()
    assert model.get_input_embeddings().weight.grad[end].norm() > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float):
    weights = weights_of(folder)
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"NaN or infinite values: model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        load_model(folder, dtype=torch.float32)
    assert caught.value.code == "model-invalid"


def test_a_missing_weight_is_refused_by_name(folder: Path):
    weights = weights_of(folder)
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"would be random: model\.layers\.0\.self_attn\.q_proj\.weight") as caught:
        load_model(folder, dtype=torch.float32)
    assert caught.value.code == "model-invalid"


def test_a_weight_of_another_shape_is_refused(folder: Path):
    weights = weights_of(folder)
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert code_of(lambda: load_model(folder, dtype=torch.float32)) == "model-invalid"


def test_a_cut_weight_file_is_refused(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert code_of(lambda: load_model(folder, dtype=torch.float32)) == "model-invalid"


def test_pickled_weights_are_never_loaded(folder: Path):
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert code_of(lambda: load_model(folder, dtype=torch.float32)) == "model-invalid"
    with pytest.raises(UserError, match="pickled weights are not loaded"):
        resolve_model(str(folder))


def test_a_model_that_brings_its_own_code_is_refused_without_a_question(folder: Path):
    (folder / "modeling_own.py").write_text("raise SystemExit('foreign code ran')")
    (folder / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}}'
    )
    assert code_of(lambda: load_model(folder, dtype=torch.float32)) == "model-invalid"
    assert code_of(lambda: model_config_value(folder, "max_position_embeddings")) == "model-invalid"


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "3",
        "{}",
        '{"model_type": "no_such_type"}',
        '{"model_type": "llama", "hidden_size": "many"}',
        '{"model_type": "llama", "num_attention_heads": 0}',
    ],
)
def test_a_config_that_cannot_be_read_is_refused(folder: Path, config: str):
    (folder / "config.json").write_text(config)
    assert code_of(lambda: load_model(folder, dtype=torch.float32)) == "model-invalid"
    with pytest.raises(UserError, match=r"config\.json: cannot be read: .") as caught:
        model_config_value(folder, "max_position_embeddings")
    assert caught.value.code == "model-invalid"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused_naming_it(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name.replace("model.safetensors", "safetensors")) as caught:
        resolve_model(str(folder))
    assert caught.value.code == "model-invalid"


def test_a_tokenizer_that_is_missing_or_damaged_is_refused(folder: Path):
    (folder / "tokenizer.json").write_text("{")
    assert code_of(lambda: load_tokenizer(folder)) == "model-invalid"
    (folder / "tokenizer.json").unlink()
    assert code_of(lambda: load_tokenizer(folder)) == "model-invalid"


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "~/there", "gpt2", "a/b/c"])
def test_a_path_that_is_no_folder_is_never_looked_up_in_the_hub(name: str):
    with pytest.raises(UserError, match="no such folder") as caught:
        resolve_model(name)
    assert caught.value.code == "model-missing"


def test_a_resolved_folder_has_the_hash_of_its_content(folder: Path):
    resolved = resolve_model(str(folder))
    assert (resolved.folder, resolved.name, resolved.revision) == (folder, str(folder), None)
    assert resolved.content_hash == hash_folder(folder)


def test_a_model_of_the_hub_is_opened_at_its_own_commit(tiny_model_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    newest, earlier, unknown = "a" * 40, "b" * 40, "c" * 40
    cached = tmp_path / "models--org--name"
    for commit in (newest, earlier):
        shutil.copytree(tiny_model_folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(newest)
    assert resolve_model("org/name").revision == newest
    Path("org/name").mkdir(parents=True)  # a folder that came later is not what a commit names
    resolved = resolve_model("org/name", revision=earlier)
    assert (resolved.folder.name, resolved.revision, resolved.content_hash) == (earlier, earlier, earlier)
    assert code_of(lambda: resolve_model("org/name", revision=unknown)) == "model-missing"


def test_a_base_made_again_has_the_same_hash(folder: Path):
    before = hash_folder(folder)
    (folder / "artifact.json").write_text('{"created_at": "now"}')
    assert hash_folder(folder) == before


def test_the_hash_changes_with_content_and_names_only(folder: Path, tmp_path: Path):
    before = hash_folder(folder)
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    for path in moved.iterdir():
        os.utime(path, (0, 0))
    assert hash_folder(moved) == before
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert hash_folder(moved) != before
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert hash_folder(folder) != before


def test_a_value_of_the_config_is_read_without_the_model(folder: Path):
    assert model_config_value(folder, "max_position_embeddings") == 1024
    assert model_config_value(folder, "no_such_value") is None
