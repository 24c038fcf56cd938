"""Partial training: which names mean which weights, and what is refused."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, OPTConfig, OPTForCausalLM

from kivnun.errors import UserError
from kivnun.methods import make_method, trainable_names
from kivnun.methods.targets import matches_pattern
from kivnun.models.new import make_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.methods import LoraMethod, PartialMethod
from kivnun.recipe.schema import NewModel


def trained(model: Model, **fields: object) -> set[str]:
    """The modules whose weights are trained, every weight of which must then be."""
    make_method(PartialMethod(**fields)).prepare(model, generator=torch.Generator())
    return {name.removesuffix(".weight").removesuffix(".bias") for name in trainable_names(model)}


@pytest.fixture
def untied_model(tiny_tokenizer: Tokenizer) -> Model:
    shape = NewModel(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    return make_model(shape, tiny_tokenizer, seed=0)


def layer_names(model: Model, *layers: int) -> set[str]:
    prefixes = tuple(f"model.layers.{layer}." for layer in layers)
    return {name.removesuffix(".weight") for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_the_last_layers_come_with_the_norm_and_the_head_behind_them(untied_model: Model):
    assert trained(untied_model, last_layers=2) == {*layer_names(untied_model, 1, 2), "model.norm", "lm_head"}


def test_a_head_that_is_tied_to_the_embeddings_stays_frozen(tiny_model: Model):
    assert tiny_model.lm_head.weight is tiny_model.model.embed_tokens.weight
    assert trained(tiny_model, last_layers=1) == {*layer_names(tiny_model, 1), "model.norm"}
    assert not tiny_model.lm_head.weight.requires_grad


def test_all_layers_are_all_but_the_embeddings(untied_model: Model):
    trained(untied_model, last_layers=3)
    frozen = [name for name, parameter in untied_model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.embed_tokens.weight"]


def test_more_layers_than_there_are_are_refused(tiny_model: Model):
    with pytest.raises(UserError, match="last_layers: 3, but the model has 2") as caught:
        trained(tiny_model, last_layers=3)
    assert caught.value.code == "recipe-invalid"


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("model", "start", "norm"),
    [
        (GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)), "transformer.h.1.", "ln_f"),
        (GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=16)), "gpt_neox.layers.1.", "final_layer_norm"),
        (OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16)), "model.decoder.layers.1.", "final_la"),
    ],
    ids=["gpt2", "gpt_neox", "opt"],
)
def test_other_architectures_have_last_layers_too(model: Model, start: str, norm: str):
    names = trained(model, last_layers=1)
    behind = {name for name in names if not name.startswith(start)}
    assert any(name.startswith(start) for name in names)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(behind) == (1 if is_tied else 2)
    assert any(norm in name for name in behind)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layers.1"], lambda name: "layers.1." in name),
        (["model.layers.0.mlp.up_proj"], lambda name: "layers.0.mlp.up_proj" in name),
        (["up_proj.weight", "norm"], lambda name: "up_proj" in name or name == "model.norm"),
        (["layers.*.self_attn"], lambda name: ".self_attn." in name),
        (["*norm"], lambda name: "norm" in name),
        (["*"], lambda _name: True),
        (["embed_tokens"], lambda name: "embed_tokens" in name),
    ],
)
def test_a_name_is_whole_or_its_last_parts_with_stars_for_any_text(tiny_model: Model, patterns: list[str], expected):
    every = {name.removesuffix(".weight") for name, _ in tiny_model.named_parameters()}
    found = trained(tiny_model, modules=tuple(patterns))
    assert found == {name for name in every if expected(name)}
    assert found


def test_signs_that_other_pattern_languages_know_are_plain_text():
    assert matches_pattern("a.b[0]", "b[0]")
    assert not matches_pattern("a.b0", "b[0]")
    assert not matches_pattern("a.bc", "b?")
    assert not matches_pattern("ab.c", "b.c")
    assert matches_pattern("ab.c", "*b.c")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("up_porj", "matches nothing in the model; near it: up_proj"),
        ("layers.9", "matches nothing"),
        ("lm_head", "lm_head has no weight of its own; it shares that of model.embed_tokens"),
        ("rotary_emb", "names a module without weights"),
        ("ayers.1", "matches nothing"),
    ],
)
def test_a_name_that_matches_no_weight_is_refused(tiny_model: Model, pattern: str, words: str):
    with pytest.raises(UserError) as caught:
        trained(tiny_model, modules=("layers.1", pattern))
    assert caught.value.code == "target-modules"
    assert words in caught.value.problem
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": ("q_porj",)}, "q_porj matches no linear layer of the model; near it: q_proj"),
        ({"target_modules": ("q_proj", "mlp.up")}, "mlp.up matches no linear layer"),
        (
            {"modules_to_save": ("embed_token",)},
            "embed_token matches no module with weights of the model; near it: emb",
        ),
        ({"modules_to_save": ("rotary_emb",)}, "rotary_emb matches no module with weights"),
        ({"target_modules": ("up_proj",), "modules_to_save": ("mlp",)}, "up_proj matches no linear layer"),
    ],
)
def test_names_of_lora_that_match_nothing_come_with_the_near_ones(tiny_model: Model, fields: dict, words: str):
    with pytest.raises(UserError) as caught:
        make_method(LoraMethod(rank=4, **fields)).prepare(tiny_model, generator=torch.Generator())
    assert caught.value.code == "target-modules"
    assert words in caught.value.problem
    assert all(parameter.requires_grad for parameter in tiny_model.parameters())


def test_no_layer_in_a_module_that_is_saved_gets_an_adapter(tiny_model: Model):
    settings = LoraMethod(rank=4, modules_to_save=("layers.1", "layers.1.mlp"))
    make_method(settings).prepare(tiny_model, generator=torch.Generator())
    adapted = [name for name in trainable_names(tiny_model) if ".lora_" in name]
    assert adapted
    assert all("layers.0." in name for name in adapted)
    whole = {name for name in trainable_names(tiny_model) if ".lora_" not in name}
    assert whole == {f"{name}.weight" for name in layer_names(tiny_model, 1)}
